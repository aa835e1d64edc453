package proxy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Clients that keep what they read count on being told when it changes: a client that is not told shows its users
// something old for ever. They share an upstream connection all the same, as long as they ask for nothing special.

const hello3 = `
	a> HELLO 3
	a~ (?s).*
	b> HELLO 3
	b~ (?s).*
	a> CLIENT TRACKING ON
	a< +OK
	b> CLIENT TRACKING ON
	b< +OK
`

func TestClientsAreToldOfChangesToWhatTheyHaveReadAndOfNoOthers(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	proxytest.Converse(t, p.Addr(), map[string]string{"direct": s.Addr()}, hello3+`
		a> GET k
		a< _
		b> GET other
		b< _
		# From outside, from another client, from the client itself.
		direct> SET k 1
		direct< +OK
		a< >2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk
		a> GET k
		a< $1\r\n1
		w> SET k 2
		w< +OK
		a< >2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk
		a> MGET k other third
		a< *3\r\n$1\r\n2\r\n_\r\n_
		a> SET k 3
		a~ ^(\+OK|>2\r\n\$10\r\ninvalidate\r\n\*1\r\n\$1\r\nk)\r\n$
		a~ ^(\+OK|>2\r\n\$10\r\ninvalidate\r\n\*1\r\n\$1\r\nk)\r\n$
		# Told once, until it is read again.
		w> SET k 4
		w< +OK
		a> PING
		a< +PONG
		# Both have read this one.
		w> SET other 1
		w< +OK
		a< >2\r\n$10\r\ninvalidate\r\n*1\r\n$5\r\nother
		b< >2\r\n$10\r\ninvalidate\r\n*1\r\n$5\r\nother
		# What is read in a transaction counts.
		b+ MULTI
		b+ GET x
		b+ SET y 1
		b> EXEC
		b< +OK
		b< +QUEUED
		b< +QUEUED
		b< *2\r\n_\r\n+OK
		w> SET x 1
		w< +OK
		b< >2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nx
		# Everything.
		w> FLUSHALL
		w< +OK
		a< >2\r\n$10\r\ninvalidate\r\n_
		b< >2\r\n$10\r\ninvalidate\r\n_
		# No more.
		a> GET k
		a< _
		a> CLIENT TRACKING OFF
		a< +OK
		w> SET k 5
		w< +OK
		a> PING
		a< +PONG
	`)
	if n := p.Stats().Pins; n > 0 {
		t.Errorf("%d clients have a connection of their own", n)
	}
}

func TestAClientThatMovesIsToldThatAllMayHaveChanged(t *testing.T) {
	_, p := redisAndProxy(t, nil)
	proxytest.Converse(t, p.Addr(), nil, hello3+`
		a> GET k
		a< _
		a> SELECT 1
		a~ ^(\+OK|>2\r\n\$10\r\ninvalidate\r\n_)\r\n$
		a~ ^(\+OK|>2\r\n\$10\r\ninvalidate\r\n_)\r\n$
		a> GET k
		a< _
		w> SELECT 1
		w< +OK
		w> SET k 1
		w< +OK
		a< >2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk
	`)
}

func TestWhenTheConnectionThatTracksBreaksItsClientsAreToldThatAllMayHaveChanged(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	proxytest.Converse(t, p.Addr(), map[string]string{"direct": s.Addr()}, hello3+`
		a> GET k
		a< _
		direct> CLIENT KILL TYPE normal
		direct~ ^:[1-9]
		a< >2\r\n$10\r\ninvalidate\r\n_
		b< >2\r\n$10\r\ninvalidate\r\n_
		a> GET k
		a< _
		direct> SET k 1
		direct< +OK
		a< >2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk
	`)
}

func TestAThousandClientsThatTrackCostOneConnection(t *testing.T) {
	const clients = 1000
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.PoolSize = 4 })
	conns := make([]*proxytest.Conn, clients)
	for i := range conns {
		conns[i] = proxytest.Dial(t, p.Addr())
		conns[i].Write(proxytest.Command("HELLO", "3") + proxytest.Command("CLIENT", "TRACKING", "ON") +
			proxytest.Command("GET", "all") + proxytest.Command("GET", fmt.Sprint("own:", i)))
	}
	for _, c := range conns {
		for range 4 {
			c.ReadReply()
		}
	}
	direct := proxytest.Dial(t, s.Addr())
	direct.Do("SET", "all", "1")
	for i, c := range conns {
		direct.Do("SET", fmt.Sprint("own:", i), "1")
		for _, key := range []string{"all", fmt.Sprint("own:", i)} {
			if got := string(c.ReadReply()); !strings.HasSuffix(got, "\r\n"+key+"\r\n") {
				t.Fatalf("client %d is told %q, want %q", i, got, key)
			}
		}
	}
	if st := p.Stats(); st.Upstream > 3 || st.Pins > 0 {
		t.Errorf("%+v", st)
	}
}
