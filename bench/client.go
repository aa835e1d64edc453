package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// The clients that a load can be sent with.
const (
	rawClient     = "raw"             // ours, the least that a client can do: the floor
	goRedisClient = "go-redis"        // a library that programs use: closer to life, and dearer than the servers
	benchmarkTool = "redis-benchmark" // to check the raw client by; plain GET and SET only
)

var clients = []string{rawClient, goRedisClient, benchmarkTool}

// newClient returns a driver that sends the job's commands with the client of --client.
func newClient(s *session, j job) driver {
	switch {
	case s.client == goRedisClient:
		return &goRedisDriver{job: j}
	case s.client == benchmarkTool && j.rate == 0 && j.Pipeline > 0 && len(j.Writes) == 1 && j.Value <= 4096:
		return &benchmarkDriver{s: s, job: j}
	}
	return newLoopDriver(s, j)
}

// goRedisDriver is a program with one go-redis client, whose pool has a connection for each goroutine.
type goRedisDriver struct {
	job
	client *redis.Client
	// conns are taken from the pool by loads that take several writes on one connection.
	conns []*redis.Conn
	words [][][]any
}

func (d *goRedisDriver) start(ctx context.Context) error {
	d.client = redis.NewClient(&redis.Options{
		Addr: d.target.addr, Username: d.target.user, Password: d.target.password,
		PoolSize: d.Clients, PoolTimeout: connectTimeout, DialTimeout: connectTimeout, DisableIdentity: true, Protocol: 2,
	})
	for _, commands := range d.job.words() {
		var batch [][]any
		for _, words := range commands {
			var args []any
			for _, word := range words {
				args = append(args, word)
			}
			batch = append(batch, args)
		}
		d.words = append(d.words, batch)
	}
	if d.Unit == "transaction" && len(d.words) > 1 {
		for range d.Clients {
			d.conns = append(d.conns, d.client.Conn())
		}
	}
	_, err := d.run(ctx, d.warmUp)
	return err
}

const connectTimeout = 30 * time.Second

func (d *goRedisDriver) run(ctx context.Context, t time.Duration) (tally, error) {
	workers := make([]goRedisWorker, d.Clients)
	var group sync.WaitGroup
	begin := time.Now()
	for i := range workers {
		group.Go(func() { workers[i].work(ctx, d, i, begin, t) })
	}
	group.Wait()
	all := tally{elapsed: time.Since(begin)}
	took, late := newHistogram(), newHistogram()
	for i := range workers {
		w := &workers[i]
		if w.err != nil {
			return all, w.err
		}
		all.commands += w.commands
		for _, x := range w.took {
			took.add(x, 1)
		}
		for _, x := range w.late {
			late.add(x, 1)
		}
	}
	all.took, all.late = took.percentiles(), late.percentiles()
	return all, ctx.Err()
}

// goRedisWorker is a goroutine of the program.
type goRedisWorker struct {
	commands   int
	took, late []time.Duration
	err        error
}

// work ends when the time is over or a command fails. At a fixed rate, a latency counts from when the command was due.
func (w *goRedisWorker) work(ctx context.Context, d *goRedisDriver, i int, begin time.Time, t time.Duration) {
	end := begin.Add(t)
	due := time.Now()
	var every time.Duration
	if d.rate > 0 {
		every = time.Duration(float64(time.Second) * float64(d.Clients*max(d.Pipeline, 1)) / d.rate)
		due = begin.Add(every * time.Duration(i) / time.Duration(d.Clients))
	}
	for n := 0; due.Before(end) && ctx.Err() == nil; n++ {
		if every > 0 {
			time.Sleep(time.Until(due))
			w.late = append(w.late, time.Since(due))
		}
		batch := d.words[n%len(d.words)]
		if w.err = d.send(ctx, i, batch); w.err != nil {
			return
		}
		last := batch[len(batch)-1][0]
		switch {
		case d.Unit != "transaction":
			w.commands += len(batch)
			w.took = append(w.took, time.Since(due))
		case last == "EXEC":
			w.commands++
			w.took = append(w.took, time.Since(due))
		}
		if every > 0 {
			due = due.Add(every)
		} else {
			due = time.Now()
		}
	}
}

// send sends a batch and waits for its replies.
func (d *goRedisDriver) send(ctx context.Context, i int, batch [][]any) error {
	var client redis.Cmdable = d.client
	if d.conns != nil {
		client = d.conns[i]
	}
	pipe := client.Pipeline()
	for _, args := range batch {
		pipe.Do(ctx, args...)
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) { // that there is nothing is an answer
		return fmt.Errorf("go-redis: %w", err)
	}
	return nil
}

func (d *goRedisDriver) stop() {
	for _, c := range d.conns {
		c.Close()
	}
	if d.client != nil {
		d.client.Close()
	}
}

// pace sleeps until so much may have been done, at a rate. It is for drivers that wait for their answers: they fall behind
// where the others would go on. A rate of 0 does not bound.
func pace(begin time.Time, done int, rate float64) {
	if rate > 0 {
		time.Sleep(time.Until(begin.Add(time.Duration(float64(done) / rate * float64(time.Second)))))
	}
}

// benchmarkDriver runs redis-benchmark, which connects within the time that it measures.
type benchmarkDriver struct {
	s *session
	job
	requests int
}

// probeRequests is the size of the run that finds out the speed, for each command of a pipeline.
const probeRequests = 10000

func (d *benchmarkDriver) start(ctx context.Context) error {
	n := probeRequests * d.Pipeline
	rps, err := d.s.runRedisBenchmark(ctx, redisBenchmarkArgs(d.job, n))
	d.requests = requestsFor(rps, d.s.duration)
	return err
}

func (d *benchmarkDriver) run(ctx context.Context, _ time.Duration) (tally, error) {
	rps, err := d.s.runRedisBenchmark(ctx, redisBenchmarkArgs(d.job, d.requests))
	if err != nil {
		return tally{}, err
	}
	return tally{commands: d.requests, elapsed: time.Duration(float64(d.requests) / rps * float64(time.Second))}, nil
}

func (*benchmarkDriver) stop() {}
