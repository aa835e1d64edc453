package proxy_test

import (
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// goRedis writes down what go-redis is told.
type goRedis struct {
	*redis.Client // with default options but for the protocol

	t        *testing.T
	addr     string
	protocol int
	out      strings.Builder
}

var goRedisSteps = []struct {
	name string
	do   func(*goRedis, context.Context)
}{
	{"pipelines", (*goRedis).pipelines},
	{"transactions", (*goRedis).transactions},
	{"watch", (*goRedis).watch},
	{"scripts", (*goRedis).scripts},
	{"functions", (*goRedis).functions},
	{"streams", (*goRedis).streams},
	{"pubsub", (*goRedis).pubSub},
	{"blocking", (*goRedis).blocking},
	{"tracking", (*goRedis).tracking},
	{"cache", (*goRedis).cache},
	{"redirect", (*goRedis).redirect},
	{"scanning", (*goRedis).scanning},
	{"binary", (*goRedis).binary},
	{"databases", (*goRedis).databases},
	{"names", (*goRedis).names},
	{"errors", (*goRedis).errors},
}

func goRedisTranscript(t *testing.T, addr string, leftOut []string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	g := &goRedis{t: t, addr: addr}
	for _, g.protocol = range []int{2, 3} {
		g.Client = g.open(redis.Options{})
		g.FlushAll(ctx)
		for _, step := range goRedisSteps {
			if !slices.Contains(leftOut, step.name) {
				fmt.Fprintf(&g.out, "# %s, RESP%d\n", step.name, g.protocol)
				step.do(g, ctx)
			}
		}
		_ = g.Close()
	}
	return g.out.String()
}

// open returns another client. Retries would hide what is looked for here.
func (g *goRedis) open(opts redis.Options) *redis.Client {
	opts.Addr, opts.MaxRetries = g.addr, -1
	opts.ReadTimeout, opts.WriteTimeout = 10*time.Second, 10*time.Second
	if opts.Protocol == 0 {
		opts.Protocol = g.protocol
	}
	c := redis.NewClient(&opts)
	g.t.Cleanup(func() { _ = c.Close() })
	return c
}

// alone returns a client with one connection, which its state lives on.
func (g *goRedis) alone(opts redis.Options) *redis.Client {
	opts.PoolSize = 1
	return g.open(opts)
}

// say writes down values, and what commands have returned.
func (g *goRedis) say(what string, values ...any) {
	parts := make([]string, len(values))
	for i, v := range values {
		parts[i] = told(v)
	}
	fmt.Fprintf(&g.out, "%s: %s\n", what, strings.Join(parts, ", "))
}

// waiting makes a call that waits, and returns what waits for its outcome once it has reached the server.
func (g *goRedis) waiting(ctx context.Context, call func() any) func() any {
	blocked := func() int {
		_, n, _ := strings.Cut(g.Info(ctx, "clients").Val(), "\r\nblocked_clients:")
		n, _, _ = strings.Cut(n, "\r\n")
		count, _ := strconv.Atoi(n)
		return count
	}
	was, done := blocked(), make(chan any, 1)
	go func() { done <- call() }()
	g.until("a client blocks", func() bool { return blocked() > was })
	return func() any { return <-done }
}

func (g *goRedis) until(what string, condition func() bool) {
	g.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			g.t.Fatalf("in vain: %s; at the end of\n%s", what, quote(g.out.String()))
		}
	}
}

// told returns a value in a form in which equal ones are equal, and others are not.
func told(v any) string {
	switch v := v.(type) {
	case nil:
		return "nil"
	case redis.Cmder:
		if v.Err() != nil {
			return told(v.Err())
		}
		var values []string
		for _, value := range reflect.ValueOf(v).MethodByName("Val").Call(nil) {
			values = append(values, told(value.Interface()))
		}
		return strings.Join(values, ", ")
	case error:
		if errors.Is(v, redis.Nil) {
			return "redis.Nil"
		}
		return fmt.Sprintf("%T: %s", v, strconv.QuoteToASCII(v.Error()))
	case []byte:
		return told(string(v))
	case string:
		if len(v) <= 80 {
			return strconv.QuoteToASCII(v)
		}
		return fmt.Sprintf("<%d bytes %x>", len(v), sha1.Sum([]byte(v)))
	}
	return toldParts(reflect.ValueOf(v))
}

// toldParts shows what consists of other values.
func toldParts(v reflect.Value) string {
	var parts []string
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return "nil"
		}
		return told(v.Elem().Interface())
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			parts = append(parts, told(v.Index(i).Interface()))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case reflect.Map:
		for _, k := range v.MapKeys() {
			parts = append(parts, told(k.Interface())+": "+told(v.MapIndex(k).Interface()))
		}
		sort.Strings(parts)
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				parts = append(parts, f.Name+": "+told(v.Field(i).Interface()))
			}
		}
	default:
		return fmt.Sprint(v.Interface())
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
