package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Connections that the loop cannot poll (TLS, systems without epoll) are read and written by goroutines of their own.
// Sessions and lanes must not be able to tell.

func TestConnectionsThatCannotBePolledServeJustAsWell(t *testing.T) {
	s := proxytest.Redis(t)
	cfg := proxytest.Config(t, s)
	cfg.PoolSize = 4
	proxy.UseStreams(&cfg)
	p := proxytest.Proxy(t, cfg)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	var clients sync.WaitGroup
	for i := range 20 {
		clients.Go(func() {
			c := redis.NewClient(&redis.Options{Addr: p.Addr(), Protocol: 2 + i%2, PoolSize: 1, DB: i % 2})
			defer c.Close()
			if err := useEverything(ctx, c, i); err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		})
	}
	clients.Wait()
	allGone(t, p)
}

// useEverything sends, as client i, some of everything: pipelines, large values, transactions, a pop that waits.
func useEverything(ctx context.Context, c *redis.Client, i int) error {
	key := fmt.Sprintf("client:%d", i)
	large := make([]byte, 1<<20+i)
	for j := range large {
		large[j] = byte(rand.IntN(256))
	}
	if err := c.Set(ctx, key, large, 0).Err(); err != nil {
		return err
	}
	if got, err := c.Get(ctx, key).Bytes(); err != nil || !bytes.Equal(got, large) {
		return fmt.Errorf("a large value came back otherwise: %d bytes, %w", len(got), err)
	}
	replies, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		for j := range 1000 {
			p.Echo(ctx, fmt.Sprintf("%s:%d", key, j))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for j, r := range replies {
		if got, want := r.(*redis.StringCmd).Val(), fmt.Sprintf("%s:%d", key, j); got != want {
			return fmt.Errorf("reply %d: %q, want %q", j, got, want)
		}
	}
	err = c.Watch(ctx, func(tx *redis.Tx) error {
		_, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error { return p.Incr(ctx, key+":n").Err() })
		return err
	}, key+":n")
	if err != nil {
		return err
	}
	if err := c.RPush(ctx, key+":q", "job").Err(); err != nil {
		return err
	}
	_, err = c.BLPop(ctx, 10*time.Second, key+":q").Result()
	return err
}
