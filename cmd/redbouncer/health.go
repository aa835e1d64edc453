package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/redbouncer/redbouncer/proxy/admin"
)

const (
	// healthTimeout bounds the question. It is longer than /readyz waits for the upstream.
	healthTimeout = 3 * time.Second
	// healthAnswer is the most that is read of an answer, in bytes.
	healthAnswer = 1 << 10
)

// healthSettings are those of health: where a proxy with the same settings serves its probes, and which of them to ask.
// The rows are those of settings.
type healthSettings struct {
	Config     value[filePath] `name:"config" placeholder:"FILE" group:"file" help:"Read settings from this YAML file."`
	HTTPListen value[address]  `name:"http-listen" default:"${http_listen}" placeholder:"ADDR" group:"operator" help:"Where the proxy serves /healthz and /readyz."`
	Ready      bool            `name:"ready" group:"operator" help:"Ask /readyz, which is about the upstream too, and not /healthz."`
}

// BeforeResolve implements kong's hook. What the file says of other settings is not looked at: a proxy goes on with
// those that it has when somebody spoils the file, and is as healthy as before.
func (*healthSettings) BeforeResolve(file *fileResolver) error {
	file.anyName = true
	return nil
}

// health asks the proxy that runs with the same settings how it is, and prints the answer. It returns an error unless
// the answer is good; the exit status is 1 then, whatever the reason, as Docker knows no other.
func health(inv *invocation, stdout io.Writer) error {
	at := &inv.health.HTTPListen
	if err := inv.askable(at); err != nil {
		return err
	}
	path := "/healthz"
	if inv.health.Ready {
		path = "/readyz"
	}
	ctx, cancel := context.WithTimeout(context.Background(), healthTimeout)
	defer cancel()
	status, answer, err := ask(ctx, string(at.is), path)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("http-listen %s, from %s, does not answer %s within %s", at.is, at.origin(), path, seconds(healthTimeout))
	case err != nil:
		return fmt.Errorf("http-listen %s, from %s, cannot be asked: %w; does redbouncer run with these settings?", at.is, at.origin(), err)
	case status != http.StatusOK:
		return fmt.Errorf("http-listen %s answers %s with %d: %s", at.is, path, status, answer)
	}
	_, err = fmt.Fprintln(stdout, answer)
	return err
}

// askable returns why nobody can be asked at an address of http-listen; nil: it makes sense to try.
func (inv *invocation) askable(at *value[address]) error {
	wrong := func(want string) error { return settingError{"http-listen", at.said(), at.origin(), want} }
	if at.problem() != nil {
		return wrong(at.problem().Error())
	}
	if at.origin() == "default" && len(inv.file.problems) > 0 {
		return errors.Join(inv.file.problems...) // the file may have said something else
	}
	err := admin.Config{HTTPListen: string(at.is)}.Validate()
	switch {
	case err != nil:
		return inv.explain(err)
	case string(at.is) == admin.None:
		return wrong("health asks the proxy over HTTP; want host:port or unix:/path, for serve too")
	case strings.HasSuffix(string(at.is), ":0"):
		return wrong("the proxy takes any free port; want one that health can know")
	}
	return nil
}

// ask returns the status and the text of a page. An address without a host is one of this machine.
func ask(ctx context.Context, addr, path string) (status int, text string, err error) {
	network, host := "tcp", "redbouncer"
	if socket, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", socket
	}
	client := http.Client{Transport: &http.Transport{ // without the environment's proxy for HTTP
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+path, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	reply, err := client.Do(request)
	if err != nil {
		return 0, "", errors.Unwrap(err) // without the URL, whose host is made up
	}
	defer func() { _ = reply.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(reply.Body, healthAnswer))
	return reply.StatusCode, strings.TrimSpace(string(body)), err
}
