package main

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"
)

// churnEvery is how far apart visitors come.
const churnEvery = 5 * time.Millisecond

// visits are what visitors send, a command a line, before they leave. Some leave in the middle of something.
var visits = []string{
	"SET churn:1 v\nGET churn:1",
	"HELLO 3\nCLIENT SETNAME visitor\nSELECT 3\nSET churn:2 v",
	"MULTI\nINCR churn:3\nEXEC",
	"WATCH churn:3\nMULTI\nINCR churn:3",
	"BLPOP churn:none 0.05",
	"BLPOP churn:none 30",
	"SUBSCRIBE churn:channel",
	"PUBLISH churn:channel hello",
	"SET churn:4 " + strings.Repeat("x", 100<<10) + "\nGET churn:4",
	"EVAL return(1) 0\nNOSUCHCOMMAND",
	"CLIENT TRACKING ON\nGET churn:1",
}

// churn has visitors come and go until the returned function is called: each sends something, stays for a moment, and leaves,
// orderly or by a reset, with half a command sent or its replies unread.
func churn(ctx context.Context, t target) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() {
		for ctx.Err() == nil {
			time.Sleep(churnEvery)
			all.Go(func() { visit(ctx, t) })
		}
	})
	return func() { cancel(); all.Wait() }
}

// visit is one visitor. What becomes of it is its own affair: the servers that are compared do not know all of these commands.
func visit(ctx context.Context, t target) {
	conn, err := t.dial(ctx)
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(replyTimeout))
	var raw []byte
	for line := range strings.SplitSeq(visits[chance(len(visits))], "\n") {
		raw = appendCommand(raw, strings.Fields(line)...)
	}
	if chance(8) == 0 {
		raw = raw[:len(raw)-3]
	}
	if _, err := conn.Write(raw); err != nil {
		return
	}
	stay := time.Duration(chance(200)) * time.Millisecond
	if chance(2) == 0 {
		time.Sleep(stay)
	} else {
		_ = conn.SetReadDeadline(time.Now().Add(stay))
		_, _ = io.Copy(io.Discard, conn)
	}
	if tcp, ok := conn.(*net.TCPConn); ok && chance(4) == 0 {
		_ = tcp.SetLinger(0)
	}
}

// chance is a number below n.
func chance(n int) int { return rand.N(n) } //nolint:gosec // it needs no secrecy
