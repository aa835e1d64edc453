//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Every scenario for a moment, with small numbers: that it runs, not what it measures.

// shrunk replaces the numbers of a scenario's loads by ones that take no time.
func shrunk(t *testing.T) {
	t.Helper()
	before, steps, patience := scenarios, upstreamSteps, leakPatience
	t.Cleanup(func() { scenarios, upstreamSteps, leakPatience = before, steps, patience })
	upstreamSteps, leakPatience = []int{5, 10}, 500*time.Millisecond
	scenarios = append([]scenario(nil), before...)
	for i := range scenarios {
		loads := append([]load(nil), scenarios[i].loads...)
		for j := range loads {
			loads[j].Clients = min(loads[j].Clients, 20)
			loads[j].Value = min(loads[j].Value, 1<<20)
			loads[j].Rate = min(loads[j].Rate, 1000)
		}
		scenarios[i].loads = loads
	}
}

func TestEveryScenarioRuns(t *testing.T) {
	shrunk(t)
	ran := 0
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			args, temp := small(t, "--duration", "200ms", sc.name) // long enough for an answer, however busy the machine is
			for _, peer := range contenders {
				if peer.peer() {
					if _, err := peer.program.find(); err != nil {
						t.Log(err, "and is left out")
					}
				}
			}
			var stdout, stderr bytes.Buffer
			if err := run(context.Background(), args, &stdout, &stderr); err != nil {
				t.Fatalf("%v\n%s", err, &stderr)
			}
			nothingIsLeft(t, temp)
			if !strings.Contains(stdout.String(), "\n"+sc.name) && sc.name != "storm" && sc.name != "fair" {
				t.Errorf("it printed no table:\n%s", &stdout)
			}
			ran++
		})
	}
	switch {
	case ran > 0 || testing.Short():
	case runtime.GOOS == "linux":
		t.Error("no scenario was run")
	default:
		t.Skip("the raw client needs Linux")
	}
}

func TestTheScenariosRunWithGoRedisToo(t *testing.T) {
	shrunk(t)
	for _, name := range []string{"latency", "transactions"} {
		args, temp := small(t, "--client", "go-redis", "--peers", "none", name)
		if err := run(context.Background(), args, &bytes.Buffer{}, &bytes.Buffer{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		nothingIsLeft(t, temp)
	}
}

// redisOfOurOwn starts a Redis and returns its address.
func redisOfOurOwn(t *testing.T, more ...string) string {
	t.Helper()
	server, err := findRedisServer()
	if err != nil {
		t.Fatal(err)
	}
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	p, err := start("redis-server", append([]string{server, "--port", strconv.Itoa(ports[0]), "--bind", "127.0.0.1", "--save", "",
		"--dir", t.TempDir()}, more...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	addr := loopback(ports[0])
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return addr
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestAnAddressIsLoadedWithinBoundsAndLeftAsItWas(t *testing.T) {
	if testing.Short() {
		t.Skip("starts servers")
	}
	shrunk(t)
	addr := redisOfOurOwn(t, "--requirepass", "secret")
	us := target{addr: addr, password: "secret"}
	args := []string{"--target", "redis://:secret@" + addr, "--direct", "redis://:secret@" + addr, "--rounds", "1", "--duration", "50ms",
		"throughput", "connect", "churn", "blocking", "pubsub", "large"}
	var stdout, stderr bytes.Buffer
	if err := run(context.Background(), args, &stdout, &stderr); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	text := stdout.String()
	for _, want := range []string{"starts nothing", "at most 200 connections and 5,000 commands/s", "redbouncer-bench:", "throughput: 50 clients"} {
		if !strings.Contains(text, want) {
			t.Errorf("the output has no %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "secret") {
		t.Errorf("the password is shown:\n%s", text)
	}
	got, err := us.ask(context.Background(), "DBSIZE")
	if err != nil || got != "0" {
		t.Errorf("%s keys are left, %v", got, err)
	}
}

func TestADryRunConnectsToNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	came := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		came <- err
	}()
	var stdout bytes.Buffer
	args := []string{"latency", "--target", l.Addr().String(), "--dry-run", "--max-rate", "1000", "large"}
	if err := run(context.Background(), args, &stdout, &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"25 % of peak", "250", "at most 200 connections and 1,000 commands/s", "GET of 8,388,608 B"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("the plan has no %q:\n%s", want, &stdout)
		}
	}
	if strings.Contains(stdout.String(), "67,108,864") {
		t.Errorf("64 MB for an address that is not ours:\n%s", &stdout)
	}
	l.Close()
	if err := <-came; !errors.Is(err, net.ErrClosed) {
		t.Errorf("somebody connected (%v)", err)
	}
}
