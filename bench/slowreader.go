package main

import (
	"context"
	"net"
	"sync"
	"time"
)

const (
	// slowAsks is how many large values a slow reader asks for, and slowSize how large they are: bounded, and well below
	// where a server may close it.
	slowAsks = 32
	slowSize = 256 << 10
	// slowReads is how much it reads each slowEvery.
	slowReads = 16 << 10
	slowEvery = 50 * time.Millisecond
)

// slowDriver has clients that do not keep up beside the ones that are measured.
type slowDriver struct {
	driver
	job
	conns  []net.Conn
	end    chan struct{}
	reader sync.WaitGroup
}

func newSlowDriver(s *session, j job) driver {
	return &slowDriver{driver: newClient(s, j), job: j, end: make(chan struct{})}
}

func (d *slowDriver) start(ctx context.Context) error {
	if d.Slow > 0 {
		if err := setKey(ctx, d.target, d.key("other"), slowSize); err != nil {
			return err
		}
	}
	for range d.Slow {
		c, err := d.target.dial(ctx)
		if err != nil {
			return err
		}
		d.conns = append(d.conns, c)
		for range slowAsks {
			if _, err := c.Write(appendCommand(nil, "GET", d.key("other"))); err != nil {
				return err
			}
		}
		d.reader.Go(func() { d.read(c) })
	}
	return d.driver.start(ctx)
}

// read takes little at a time. It ends with the connection or with stop, which waits for it.
func (d *slowDriver) read(c net.Conn) {
	buffer := make([]byte, slowReads)
	for {
		select {
		case <-d.end:
			return
		case <-time.After(slowEvery):
		}
		if _, err := c.Read(buffer); err != nil {
			return
		}
	}
}

func (d *slowDriver) stop() {
	close(d.end)
	for _, c := range d.conns {
		c.Close()
	}
	d.reader.Wait()
	d.driver.stop()
}
