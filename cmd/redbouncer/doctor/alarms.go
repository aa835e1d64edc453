package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

const (
	execTimeout    = 10 * time.Second
	webhookTimeout = 5 * time.Second
	alarmsQueued   = 16
	outputShown    = 200
)

// alarms runs the command and posts to the webhook, one event after the other, while the watch goes on.
type alarms struct {
	// Static after construction.
	cfg    *Config
	tell   func(Event)
	queue  chan Event
	ended  chan struct{}
	client *http.Client
}

func newAlarms(cfg *Config, tell func(Event)) *alarms {
	a := &alarms{
		cfg: cfg, tell: tell, queue: make(chan Event, alarmsQueued), ended: make(chan struct{}), client: &http.Client{Timeout: webhookTimeout},
	}
	go a.run()
	return a
}

// raise hands an event over. It never blocks.
func (a *alarms) raise(e Event) {
	select {
	case a.queue <- e:
	default:
		a.failed(e, "alarm", errNoAlarm)
	}
}

// close waits until those that were raised have been sent, each within its time.
func (a *alarms) close() {
	close(a.queue)
	<-a.ended
}

// run ends when the queue is closed.
func (a *alarms) run() {
	defer close(a.ended)
	for e := range a.queue {
		var both sync.WaitGroup
		if a.cfg.Exec != "" {
			both.Go(func() { a.failed(e, "--exec", a.execute(e)) })
		}
		if a.cfg.Webhook != "" {
			both.Go(func() { a.failed(e, "--webhook", a.post(e)) })
		}
		both.Wait()
	}
}

func (a *alarms) failed(e Event, what string, err error) {
	if err == nil {
		return
	}
	a.tell(Event{
		Schema: schema, Time: time.Now().UTC().Format(time.RFC3339), Event: EventFailed, Level: Warning, Target: e.Target,
		Text: fmt.Sprintf("%s for the event %s: %v", what, e.Event, err),
	})
}

// execute runs the command, with the event on its standard input and in its environment.
func (a *alarms) execute(e Event) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), execTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", a.cfg.Exec)
	cmd.WaitDelay = time.Second // for what it has started, which keeps its output open
	cmd.Stdin = bytes.NewReader(text)
	cmd.Env = append(os.Environ(), "DOCTOR_EVENT="+e.Event, "DOCTOR_LEVEL="+e.Level.String(), "DOCTOR_TEXT="+withoutNUL(e.Text),
		"DOCTOR_TARGET="+e.Target, "DOCTOR_USED="+shown(e.Used, "%d"), "DOCTOR_MAXCLIENTS="+shown(e.MaxClients, "%d"),
		"DOCTOR_PERCENT="+shown(e.Percent, "%.1f"))
	out, err := cmd.CombinedOutput()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("it took longer than %s, and was ended", execTimeout)
	case err != nil && len(out) > 0:
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out[:min(len(out), outputShown)])))
	}
	return err
}

func withoutNUL(text string) string { return strings.ReplaceAll(text, "\x00", "?") }

// post sends the event as JSON. The URL is no part of its errors: with many services, whoever knows it may post.
func (a *alarms) post(e Event) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	reply, err := a.client.Post(a.cfg.Webhook, "application/json", bytes.NewReader(text))
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return fmt.Errorf("%s: %w", webhookHost(a.cfg.Webhook), err)
	}
	defer func() { _ = reply.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(reply.Body, 64<<10))
	if reply.StatusCode/100 != 2 {
		return fmt.Errorf("%s answers %s", webhookHost(a.cfg.Webhook), reply.Status)
	}
	return nil
}

func webhookHost(raw string) string {
	if u, err := url.Parse(raw); err == nil {
		return u.Scheme + "://" + u.Host
	}
	return "the webhook"
}

func (c *Config) validateWebhook() error {
	if c.Webhook == "" {
		return nil
	}
	u, err := url.Parse(c.Webhook)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return errors.New("--webhook: want a URL that begins with http:// or https://")
	}
	return nil
}
