package main

import (
	"context"
	"fmt"
	"time"
)

// loopDriver loads with the raw client.
type loopDriver struct {
	cfg    loopConfig
	warmUp time.Duration
	l      *loop
}

func newLoopDriver(s *session, j job) driver {
	cfg := loopConfig{target: j.target, clients: j.Clients, batches: j.batches(), cpu: s.loadCPU()}
	if j.rate > 0 {
		cfg.rate = j.rate / float64(max(j.Pipeline, 1))
	}
	if j.Value > 64<<10 {
		cfg.buffer, cfg.whole = 1<<20, true
	}
	return &loopDriver{cfg: cfg, warmUp: j.warmUp}
}

// newChurnDriver has each command come over a connection of its own.
func newChurnDriver(s *session, j job) driver {
	d := newLoopDriver(s, j).(*loopDriver)
	d.cfg.renew = true
	if j.target.password != "" { // log in and ask in one write
		hello, first := j.target.hello, d.cfg.batches[0]
		d.cfg.batches[0] = batch{append(hello.bytes, first.bytes...), first.commands, hello.replies + first.replies}
	}
	return d
}

func (d *loopDriver) start(ctx context.Context) (err error) {
	if d.l, err = newLoop(d.cfg); err != nil {
		return err
	}
	if !d.cfg.renew {
		if err := d.l.connect(ctx); err != nil {
			return err
		}
	}
	_, err = d.l.run(ctx, d.warmUp)
	return err
}

func (d *loopDriver) run(ctx context.Context, t time.Duration) (tally, error) { return d.l.run(ctx, t) }

func (d *loopDriver) stop() {
	if d.l != nil {
		d.l.close()
	}
}

// waveDriver measures the coming itself: all clients at once, each with its first reply.
type waveDriver struct {
	cfg  loopConfig
	rate float64
	l    *loop
}

func newWaveDriver(s *session, j job) driver {
	return &waveDriver{cfg: loopConfig{target: j.target, clients: j.Clients, cpu: s.loadCPU()}, rate: j.rate}
}

func (*waveDriver) start(context.Context) error { return nil }

// run has them come again and again until the time is over. Going is not measured.
func (d *waveDriver) run(ctx context.Context, t time.Duration) (tally, error) {
	all, took := tally{}, newHistogram()
	for begin := time.Now(); all.commands == 0 || time.Since(begin) < t; {
		d.stop()
		time.Sleep(time.Duration(d.cfg.clients) * leaveTime)
		var err error
		if d.l, err = newLoop(d.cfg); err != nil {
			return all, err
		}
		start := time.Now()
		if err := d.l.connect(ctx); err != nil {
			return all, err
		}
		all.elapsed += time.Since(start)
		all.commands += d.cfg.clients
		pace(begin, all.commands, d.rate)
		took.h.Merge(d.l.took.h)
	}
	all.took = took.percentiles()
	return all, nil
}

func (d *waveDriver) stop() {
	if d.l != nil {
		d.l.close()
		d.l = nil
	}
}

// fanDriver publishes to a channel and waits until every subscriber has the message, and then the next.
type fanDriver struct {
	cfg         loopConfig
	rate        float64
	subscribers int
	subscribe   batch
	publish     batch
	l           *loop
}

func newFanDriver(s *session, j job) driver {
	channel := j.key("channel")
	return &fanDriver{
		cfg:         loopConfig{target: j.target, clients: j.Clients + 1, cpu: s.loadCPU()},
		rate:        j.rate,
		subscribers: j.Clients,
		subscribe:   batch{bytes: appendCommand(nil, "SUBSCRIBE", channel), replies: 1},
		publish:     batch{bytes: appendCommand(nil, "PUBLISH", channel, string(make([]byte, j.Value))), replies: 1},
	}
}

func (d *fanDriver) start(ctx context.Context) (err error) {
	if d.l, err = newLoop(d.cfg); err != nil {
		return err
	}
	if err := d.l.connect(ctx); err != nil {
		return err
	}
	return d.l.onThread(func() error {
		for i := range d.subscribers {
			d.l.send(i, &d.subscribe, d.l.now)
		}
		return d.l.until(ctx, func() bool { return d.l.unanswered == 0 })
	})
}

// run counts deliveries. A delivery takes from when its message was sent.
func (d *fanDriver) run(ctx context.Context, t time.Duration) (tally, error) {
	l := d.l
	took, delivered, sent := newHistogram(), 0, time.Duration(0)
	l.onPush = func(int) {
		delivered++
		took.add(l.now-sent, 1)
	}
	l.now = time.Since(l.begin)
	start, messages := l.now, 0
	err := l.onThread(func() error {
		for begin := time.Now(); l.now-start < t; pace(begin, delivered, d.rate) {
			messages++
			sent = time.Since(l.begin)
			l.send(d.subscribers, &d.publish, sent)
			if err := l.until(ctx, func() bool {
				return l.unanswered == 0 && delivered == messages*d.subscribers
			}); err != nil {
				return fmt.Errorf("message %d, %d of %d delivered: %w", messages, delivered, messages*d.subscribers, err)
			}
		}
		return nil
	})
	return tally{commands: delivered, elapsed: l.now - start, took: took.percentiles()}, err
}

func (d *fanDriver) stop() {
	if d.l != nil {
		d.l.close()
	}
}

// until steps until that holds.
func (l *loop) until(ctx context.Context, holds func() bool) error {
	patience := time.Since(l.begin) + replyTimeout
	for !holds() {
		if err := l.step(ctx, replyTimeout); err != nil {
			return err
		}
		if l.now = time.Since(l.begin); l.now > patience {
			return fmt.Errorf("not answered within %s", replyTimeout)
		}
	}
	return nil
}
