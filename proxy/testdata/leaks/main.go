// Programs that leak, each in its own way, and programs that do not but look a little like it. See README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// programs are written as they are found: the mistake is the only thing that is wrong with each.
var programs = map[string]func(context.Context, redis.Options){
	"connection-per-request": connectionPerRequest,
	"no-close-on-error":      noCloseOnError,
	"pool-too-large":         poolTooLarge,
	"forgotten-subscribers":  forgottenSubscribers,
	"never-used":             neverUsed,

	"steady":   steady,
	"bursty":   bursty,
	"deployed": deployed,
}

func main() {
	if len(os.Args) < 3 || programs[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: leaks PROGRAM HOST:PORT [SECONDS]")
		os.Exit(2)
	}
	ctx := context.Background()
	if len(os.Args) > 3 {
		seconds, err := strconv.Atoi(os.Args[3])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
		defer cancel()
	}
	opts := redis.Options{Addr: os.Args[2], ClientName: os.Args[1]}
	if path, ok := strings.CutPrefix(opts.Addr, "unix:"); ok {
		opts.Network, opts.Addr = "unix", path
	}
	fmt.Println("begun")
	programs[os.Args[1]](ctx, opts)
}

// each calls f again and again until ctx is done.
func each(ctx context.Context, d time.Duration, f func(i int)) {
	ticker := time.NewTicker(d)
	defer ticker.Stop()
	for i := 0; ; i++ {
		f(i)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// connectionPerRequest makes a client, and with it a pool, for each request.
func connectionPerRequest(ctx context.Context, opts redis.Options) {
	each(ctx, 500*time.Millisecond, func(int) {
		client := redis.NewClient(&opts)
		client.Get(ctx, "greeting")
		client.Close()
	})
}

// noCloseOnError takes a connection out of the pool and does not give it back when the request fails. The pool has been
// made larger when it ran dry.
func noCloseOnError(ctx context.Context, opts redis.Options) {
	opts.PoolSize = 1000
	client := redis.NewClient(&opts)
	client.Set(ctx, "order:4", "not a hash", 0)
	each(ctx, 200*time.Millisecond, func(i int) {
		conn := client.Conn()
		if err := conn.HGet(ctx, fmt.Sprint("order:", i%5), "total").Err(); err != nil && !errors.Is(err, redis.Nil) {
			return // and with it the connection
		}
		conn.Close()
	})
}

// poolTooLarge keeps sixty connections ready and uses one or two.
func poolTooLarge(ctx context.Context, opts redis.Options) {
	opts.PoolSize, opts.MinIdleConns = 60, 60
	client := redis.NewClient(&opts)
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			each(ctx, 300*time.Millisecond, func(int) { client.Get(ctx, "greeting") })
		})
	}
	all.Wait()
}

// forgottenSubscribers subscribes for each visitor, and does not notice that they leave.
func forgottenSubscribers(ctx context.Context, opts redis.Options) {
	client := redis.NewClient(&opts)
	each(ctx, time.Second, func(i int) {
		news := client.Subscribe(ctx, fmt.Sprint("visitor:", i)).Channel()
		go func() {
			for range news {
			}
		}()
	})
}

// neverUsed makes a client for each tenant, which opens connections in advance. Nothing comes of it. They say nothing, not
// even their name.
func neverUsed(ctx context.Context, opts redis.Options) {
	opts.MinIdleConns = 3
	each(ctx, 3*time.Second, func(int) { redis.NewClient(&opts) })
}

// steady has ten connections and enough to do for them.
func steady(ctx context.Context, opts redis.Options) {
	pooled(ctx, opts, 10)
}

// deployed is a program that is started again now and then: for each version of it.
func deployed(ctx context.Context, opts redis.Options) {
	pooled(ctx, opts, 8)
}

func pooled(ctx context.Context, opts redis.Options, size int) {
	opts.PoolSize, opts.MinIdleConns = size, size
	client := redis.NewClient(&opts)
	var all sync.WaitGroup
	for range size {
		all.Go(func() {
			each(ctx, time.Second, func(int) { client.Incr(ctx, "visits") })
		})
	}
	all.Wait()
}

// bursty has little to do, and a great deal every twenty seconds. Its pool closes what it does not need for a while.
func bursty(ctx context.Context, opts redis.Options) {
	opts.PoolSize, opts.ConnMaxIdleTime = 50, 15*time.Second
	client := redis.NewClient(&opts)
	each(ctx, 200*time.Millisecond, func(i int) {
		client.Get(ctx, "greeting")
		if i%100 >= 8 {
			return
		}
		var all sync.WaitGroup
		for range 40 {
			all.Go(func() {
				conn := client.Conn()
				defer conn.Close()
				conn.Get(ctx, "greeting")
				time.Sleep(30 * time.Millisecond) // a page is made
				conn.Set(ctx, "greeting", "hello", 0)
			})
		}
		all.Wait()
	})
}
