package proxy_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// What applications do is done through client libraries, with handshakes, pools and habits of their own. The
// tests here use go-redis; testdata/clients holds the same list for libraries of other languages.

// clientStep is one thing that applications do.
type clientStep struct {
	name string
	do   func(context.Context, *clientCase) error
}

// clientCase is what a step works with.
type clientCase struct {
	*redis.Client
	opts redis.Options      // of Client
	p    *proxytest.Running // to connect again, in another way
}

// inDB returns another client, for a database of its own.
func (c *clientCase) inDB(db int) *redis.Client {
	opts := c.opts
	opts.DB = db
	return c.p.Client(opts)
}

var clientSteps = []clientStep{
	{"connect and say who it is", stepConnect},
	{"pipeline 10,000 commands", stepPipeline},
	{"run transactions", stepTransactions},
	{"count under WATCH with contention", stepWatch},
	{"wait for a pop", stepBlockingPop},
	{"subscribe", stepSubscribe},
	{"use several databases at once", stepDatabases},
	{"store values of 0 B, 64 MB and random bytes", stepValues},
	{"run scripts", stepScripts},
}

func TestApplicationsOnGoRedisDoNotNotice(t *testing.T) {
	t.Parallel() // it mostly waits
	for _, pool := range []int{4, 16} {
		for _, protocol := range []int{2, 3} {
			t.Run(fmt.Sprintf("pool-size %d, RESP%d", pool, protocol), func(t *testing.T) {
				s, p := redisAndProxy(t, func(c *proxy.Config) { c.PoolSize = pool })
				// Retries would hide what is looked for here.
				opts := redis.Options{Protocol: protocol, PoolSize: 40, MaxRetries: -1, ReadTimeout: 20 * time.Second,
					WriteTimeout: 20 * time.Second, PoolTimeout: 20 * time.Second}
				c := &clientCase{Client: p.Client(opts), opts: opts, p: p}
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
				defer cancel()
				for _, step := range clientSteps {
					t.Run(step.name, func(t *testing.T) {
						if err := step.do(ctx, c); err != nil {
							t.Error(err)
						}
						if n := upstreamConnections(t, s); n > pool {
							t.Errorf("%d upstream connections, the bound is %d", n, pool)
						}
					})
				}
			})
		}
	}
}

func stepConnect(ctx context.Context, c *clientCase) error {
	if got, err := c.Ping(ctx).Result(); err != nil || got != "PONG" {
		return fmt.Errorf("PING: %q, %w", got, err)
	}
	opts := c.opts
	opts.ClientName = "me"
	named := c.p.Client(opts)
	got, err := named.ClientGetName(ctx).Result()
	if err != nil || got != "me" {
		return fmt.Errorf("CLIENT GETNAME: %q, %w", got, err)
	}
	if got, err := c.ClientGetName(ctx).Result(); !errors.Is(err, redis.Nil) {
		return fmt.Errorf("CLIENT GETNAME of a client without a name: %q, %w", got, err)
	}
	conn := c.Conn()
	defer func() { _ = conn.Close() }()
	hello, err := conn.Hello(ctx, c.opts.Protocol, "", "", "").Result()
	if err != nil {
		return fmt.Errorf("HELLO: %w", err)
	}
	id, err := conn.ClientID(ctx).Result()
	if err != nil || hello["id"] != id {
		return fmt.Errorf("HELLO says that the id is %v, CLIENT ID says %d, %w", hello["id"], id, err)
	}
	return nil
}

func stepPipeline(ctx context.Context, c *clientCase) error {
	pipe := c.Pipeline()
	for i := range 5000 {
		pipe.Set(ctx, fmt.Sprintf("p%d", i), fmt.Sprintf("value-%d", i), 0)
		pipe.Get(ctx, fmt.Sprintf("p%d", i))
	}
	cmds, err := pipe.Exec(ctx)
	if err != nil {
		return err
	}
	for i := range 5000 {
		if got, want := cmds[2*i+1].(*redis.StringCmd).Val(), fmt.Sprintf("value-%d", i); got != want {
			return fmt.Errorf("reply %d: got %q, want %q", i, got, want)
		}
	}
	return nil
}

func stepTransactions(ctx context.Context, c *clientCase) error {
	for i := range 100 {
		key := fmt.Sprintf("tx%d", i)
		cmds, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, key, i, 0)
			p.Incr(ctx, key)
			p.Get(ctx, key)
			return nil
		})
		if err != nil {
			return err
		}
		if got, want := cmds[2].(*redis.StringCmd).Val(), fmt.Sprint(i+1); got != want {
			return fmt.Errorf("transaction %d: got %q, want %q", i, got, want)
		}
	}
	// An error within a transaction is that command's; an unknown command is everybody's.
	_, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Do(ctx, "nosuchcommand")
		p.Set(ctx, "never", "set", 0)
		return nil
	})
	if err == nil {
		return errors.New("a transaction with an unknown command went through")
	}
	if n := c.Exists(ctx, "never").Val(); n != 0 {
		return errors.New("a transaction was refused, and carried out")
	}
	return nil
}

// stepWatch has clients count on one key, each with its read and its write in a transaction: lost updates show
// in the end.
func stepWatch(ctx context.Context, c *clientCase) error {
	const workers, rounds = 8, 25
	count := func(tx *redis.Tx) error {
		n, err := tx.Get(ctx, "counter").Int()
		if err != nil {
			return err
		}
		_, err = tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, "counter", n+1, 0)
			return nil
		})
		return err
	}
	if err := c.Set(ctx, "counter", 0, 0).Err(); err != nil {
		return err
	}
	errs := make(chan error, workers)
	for range workers {
		go func() {
			for done := 0; done < rounds; {
				err := c.Watch(ctx, count, "counter")
				if err == nil {
					done++
				} else if !errors.Is(err, redis.TxFailedErr) {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range workers {
		if err := <-errs; err != nil {
			return err
		}
	}
	if got := c.Get(ctx, "counter").Val(); got != fmt.Sprint(workers*rounds) {
		return fmt.Errorf("counted to %s, want %d", got, workers*rounds)
	}
	return nil
}

func stepBlockingPop(ctx context.Context, c *clientCase) error {
	got := make(chan error, 1)
	go func() {
		v, err := c.BLPop(ctx, 10*time.Second, "queue").Result()
		if err == nil && (len(v) != 2 || v[1] != "job") {
			err = fmt.Errorf("got %q", v)
		}
		got <- err
	}()
	if err := c.RPush(ctx, "queue", "job").Err(); err != nil {
		return err
	}
	if err := <-got; err != nil {
		return err
	}
	start := time.Now()
	if v, err := c.BLPop(ctx, time.Second, "queue").Result(); !errors.Is(err, redis.Nil) {
		return fmt.Errorf("a pop in vain: %q, %w", v, err)
	}
	if d := time.Since(start); d < 900*time.Millisecond {
		return fmt.Errorf("a pop in vain gave up after %v, not a second", d)
	}
	return nil
}

func stepSubscribe(ctx context.Context, c *clientCase) error {
	sub := c.Subscribe(ctx, "news")
	defer func() { _ = sub.Close() }()
	if _, err := sub.Receive(ctx); err != nil {
		return err
	}
	if err := sub.PSubscribe(ctx, "alerts.*"); err != nil {
		return err
	}
	if _, err := sub.Receive(ctx); err != nil {
		return err
	}
	const n = 200
	for i := range n {
		for _, ch := range []string{"news", "alerts.red"} {
			if got, err := c.Publish(ctx, ch, i).Result(); err != nil || got != 1 {
				return fmt.Errorf("PUBLISH reached %d, %w", got, err)
			}
		}
	}
	for i := range 2 * n {
		m, err := sub.ReceiveMessage(ctx)
		if err != nil {
			return err
		}
		if want := fmt.Sprint(i / 2); m.Payload != want {
			return fmt.Errorf("message %d: got %q, want %q", i, m.Payload, want)
		}
	}
	if err := sub.Unsubscribe(ctx, "news"); err != nil {
		return err
	}
	return sub.Ping(ctx)
}

// stepDatabases has clients of five databases work on a key of the same name at once.
func stepDatabases(ctx context.Context, c *clientCase) error {
	var all sync.WaitGroup
	errs := make(chan error, 5)
	for db := range 5 {
		client := c.inDB(db)
		all.Go(func() {
			for i := range 200 {
				want := fmt.Sprintf("db %d, %d", db, i)
				if err := client.Set(ctx, "same", want, 0).Err(); err != nil {
					errs <- err
					return
				}
				if got, err := client.Get(ctx, "same").Result(); err != nil || got != want {
					errs <- fmt.Errorf("got %q, want %q, %w", got, want, err)
					return
				}
			}
		})
	}
	all.Wait()
	close(errs)
	return <-errs
}

func stepValues(ctx context.Context, c *clientCase) error {
	random := make([]byte, 1<<20)
	if _, err := rand.Read(random); err != nil {
		return err
	}
	for _, v := range [][]byte{{}, []byte("\r\n"), random, bytes.Repeat([]byte("64 bytes that do not repeat on a power of two.."), 64<<20/47)} {
		if err := c.Set(ctx, "value", v, 0).Err(); err != nil {
			return fmt.Errorf("SET of %d bytes: %w", len(v), err)
		}
		got, err := c.Get(ctx, "value").Bytes()
		if err != nil || !bytes.Equal(got, v) {
			return fmt.Errorf("GET of %d bytes returned %d, or others, %w", len(v), len(got), err)
		}
	}
	return c.Del(ctx, "value").Err()
}

func stepScripts(ctx context.Context, c *clientCase) error {
	script := redis.NewScript(`return {KEYS[1], ARGV[1], redis.call('incr', KEYS[1])}`)
	for i := range 3 {
		got, err := script.Run(ctx, c, []string{"script:n"}, "x").Slice()
		if err != nil || len(got) != 3 || got[2] != int64(i+1) {
			return fmt.Errorf("run %d: %v, %w", i, got, err)
		}
	}
	err := c.Eval(ctx, "return redis.error_reply('MINE it is')", nil).Err()
	if err == nil || err.Error() != "MINE it is" {
		return fmt.Errorf("a script's error arrived as %w", err)
	}
	return c.Del(ctx, "script:n").Err()
}

// Other languages' libraries are tried where they are installed; testdata/clients/README.md tells how to.
func TestApplicationsInOtherLanguagesDoNotNotice(t *testing.T) {
	t.Parallel() // it mostly waits
	for _, tc := range []struct {
		name  string
		probe []string // exits 0 where the library is there
		run   []string
	}{
		{
			"python3-redis", []string{"/usr/bin/python3", "-c", "import redis"},
			[]string{"/usr/bin/python3", "redis_py.py"},
		},
		{"ioredis", []string{"node", "-e", "require('ioredis')"}, []string{"node", "ioredis.js"}},
		{"node-redis", []string{"node", "-e", "require('redis')"}, []string{"node", "node_redis.js"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := filepath.Join("testdata", "clients")
			probe := exec.Command(tc.probe[0], tc.probe[1:]...)
			probe.Dir = dir
			if out, err := probe.CombinedOutput(); err != nil {
				last := strings.Split(strings.TrimSpace(string(out)), "\n")
				t.Logf("not tried, since it is not installed: %v: %s", err, last[len(last)-1])
				return
			}
			s, p := redisAndProxy(t, func(c *proxy.Config) { c.PoolSize = 4 })
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, tc.run[0], append(tc.run[1:], p.Addr())...)
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			t.Logf("%s", out)
			if err != nil {
				t.Errorf("%v: %v", tc.run, err)
			}
			if n := upstreamConnections(t, s); n > 4 {
				t.Errorf("%d upstream connections, the bound is 4", n)
			}
		})
	}
}
