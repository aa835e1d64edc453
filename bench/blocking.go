package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"
)

// mostWaiters bounds the clients of the scenario blocking: each that waits has an upstream connection to itself, of which
// redbouncer has 16 by default.
const mostWaiters = 10

func waiterKey(i int) string { return "list:" + strconv.Itoa(i) }

// blockingDriver has clients wait in BLPOP, each for a list of its own, and pushes to each in turn.
type blockingDriver struct {
	job
	pusher  net.Conn
	waiters []net.Conn
	readers []*bufio.Reader
}

func newBlockingDriver(_ *session, j job) driver { return &blockingDriver{job: j} }

func (d *blockingDriver) start(ctx context.Context) (err error) {
	if d.pusher, err = d.target.dial(ctx); err != nil {
		return err
	}
	for range min(d.Clients, mostWaiters) {
		c, err := d.target.dial(ctx)
		if err != nil {
			return err
		}
		d.waiters, d.readers = append(d.waiters, c), append(d.readers, bufio.NewReader(c))
	}
	_, err = d.run(ctx, d.warmUp)
	return err
}

// run counts what was handed over: from before the push until the waiter has it.
func (d *blockingDriver) run(ctx context.Context, t time.Duration) (tally, error) {
	begin, all, took := time.Now(), tally{}, newHistogram()
	for time.Since(begin) < t {
		if err := ctx.Err(); err != nil {
			return all, err
		}
		if err := d.wait(); err != nil {
			return all, err
		}
		var mu sync.Mutex
		var arrivals sync.WaitGroup
		errs := make([]error, len(d.waiters))
		for i := range d.waiters {
			pushed := time.Now()
			arrivals.Go(func() {
				errs[i] = d.arrive(i)
				mu.Lock()
				defer mu.Unlock()
				took.add(time.Since(pushed), 1)
			})
			if _, err := talk(d.pusher, "RPUSH", d.key(waiterKey(i)), "x"); err != nil {
				errs[i] = err
			}
		}
		arrivals.Wait()
		for _, err := range errs {
			if err != nil {
				return all, err
			}
		}
		all.commands += len(d.waiters)
		pace(begin, 2*all.commands, d.rate)
	}
	all.elapsed, all.took = time.Since(begin), took.percentiles()
	return all, nil
}

// wait sends BLPOP for everybody.
func (d *blockingDriver) wait() error {
	for i, c := range d.waiters {
		_ = c.SetDeadline(time.Now().Add(replyTimeout))
		if _, err := c.Write(appendCommand(nil, "BLPOP", d.key(waiterKey(i)), "5")); err != nil {
			return err
		}
	}
	return nil
}

// arrive reads the two strings that BLPOP answers with.
func (d *blockingDriver) arrive(i int) error {
	line, err := d.readers[i].ReadString('\n')
	if err != nil || line != "*2\r\n" {
		return fmt.Errorf("BLPOP was answered with %q, %w", line, err)
	}
	for range 2 {
		if _, err := readReply(d.readers[i], 1<<20); err != nil {
			return err
		}
	}
	return nil
}

func (d *blockingDriver) stop() {
	for _, c := range append(d.waiters, d.pusher) {
		if c != nil {
			c.Close()
		}
	}
}
