package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// names are all keys that there can be. All begin with the prefix of the run, and are deleted at its end.
func (s *session) names() []string {
	names := []string{"key", "other"}
	for i := range mostWaiters {
		names = append(names, waiterKey(i))
	}
	for i := range names {
		names[i] = s.prefix + names[i]
	}
	return names
}

// rigFor is what the loads run in: servers of our own, or the addresses that were given.
func (s *session) rigFor(ctx context.Context, maxClients int) (*rig, error) {
	if s.target == "" {
		return s.newRig(ctx, s.contenders, maxClients)
	}
	return s.remoteRig(ctx)
}

// source is the address that keys are written to and deleted from.
func (r *rig) source() target { return r.targets[0] }

// prepareKeys sets the key that the load reads, and makes sure that every target sees it.
func (s *session) prepareKeys(ctx context.Context, r *rig, l load) error {
	source := r.source()
	if err := setKey(ctx, source, s.prefix+"key", l.Value); err != nil {
		return err
	}
	for _, t := range r.targets {
		if t.cannot(l) != "" {
			continue
		}
		got, err := t.ask(ctx, "STRLEN", s.prefix+"key")
		if err == nil && got != strconv.Itoa(l.Value) {
			err = fmt.Errorf("it has %s bytes, want %d", got, l.Value)
		}
		if err != nil {
			return r.explain(t, fmt.Errorf("the key before the measurement, by %s: %w", t.name, err))
		}
	}
	return nil
}

// setKey sets a key to a value of that size.
func setKey(ctx context.Context, t target, key string, size int) error {
	conn, err := t.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(connectTimeout))
	_, err = conn.Write(appendCommand(nil, "SET", key, strings.Repeat("x", size)))
	if err != nil {
		return err
	}
	answer := make([]byte, len("+OK\r\n"))
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "+OK\r\n" {
		return fmt.Errorf("SET %s was answered with %q, %w", key, answer, err)
	}
	return nil
}

// clean deletes the keys, also after an interrupt.
func (s *session) clean(r *rig) {
	if r.redis != nil {
		return // it ends with them
	}
	ctx, cancel := context.WithTimeout(context.Background(), replyTimeout)
	defer cancel()
	for _, name := range s.names() {
		if _, err := r.source().ask(ctx, "DEL", name); err != nil {
			s.progress.say("the key %s is left: %v", name, err)
		}
	}
}

// rateOf returns the rate of a load in commands a second, 0 for as fast as it goes. A share is one of what the same
// clients reach directly, as found in this run.
func (s *session) rateOf(ctx context.Context, r *rig, sc scenario, l load) (float64, error) {
	rate := l.Rate
	if l.Share > 0 {
		peak, err := s.directPeak(ctx, r, sc, l)
		if err != nil {
			return 0, err
		}
		rate = peak * float64(l.Share) / 100
	}
	return s.boundRate(l, rate), nil
}

// directPeak is the throughput of the load without a rate, of the first target: of direct, if it takes part.
func (s *session) directPeak(ctx context.Context, r *rig, sc scenario, l load) (float64, error) {
	if s.peak > 0 {
		return s.peak, nil
	}
	if s.maxRate > 0 { // it is not ours to find out how much it can take
		s.peak = s.maxRate
		return s.peak, nil
	}
	s.progress.say("%s: finding the peak of %s", sc.name, r.source().name)
	var peaks []float64
	for range 3 {
		j := s.job(l, r.source())
		got, err := s.measure(ctx, r, sc.drive(s, j), j)
		if err != nil {
			return 0, r.explain(j.target, err)
		}
		peaks = append(peaks, got.RequestsPerSecond)
	}
	middle, err := spreadOf(peaks)
	s.peak = middle.Median
	return s.peak, err
}

// upstreams is how many connections to Redis a target has. Each of ours knows Redis by an address of its own; elsewhere
// redbouncer's are known by their name. 0: cannot be told.
func (r *rig) upstreams(ctx context.Context, t target) (int, error) {
	if r.redisAddr == "" {
		return 0, nil
	}
	source := r.source()
	conn, err := source.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	list, err := talkAtLength(conn, 64<<20, "CLIENT", "LIST")
	if err != nil {
		return 0, fmt.Errorf("CLIENT LIST: %w", err)
	}
	return countUpstreams(list, t, conn.LocalAddr().String()+" laddr="+conn.RemoteAddr().String()), nil
}

// countUpstreams counts the target's lines of a CLIENT LIST, but for that of who asks.
func countUpstreams(list string, t target, asker string) int {
	n := 0
	for line := range strings.Lines(list) {
		if strings.Contains(line, " addr="+asker+" ") { // with the laddr: another may have the same port
			continue
		}
		if t.redis != "" && strings.Contains(line, " laddr="+t.redis+" ") ||
			t.redis == "" && strings.Contains(line, " name=redbouncer:") {
			n++
		}
	}
	return n
}
