package proxy_test

import (
	"fmt"
	"testing"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Subscribers share upstream subscriptions, and are counted one by one all the same.

func TestPublishersAreToldHowManyClientsTheyReach(t *testing.T) {
	for _, loops := range []int{1, 3} {
		t.Run(fmt.Sprint(loops, " loops"), func(t *testing.T) {
			s, p := redisAndProxy(t, func(c *proxy.Config) { c.Loops = loops })
			sides := map[string]string{"direct": s.Addr(), "proxied": p.Addr()}
			const script = `
				a> SUBSCRIBE news
				a~ subscribe
				b> HELLO 3
				b~ (?s).*
				b> SUBSCRIBE news other
				b~ subscribe
				b~ subscribe
				c> PSUBSCRIBE n* [a-m]*
				c~ psubscribe
				c~ psubscribe
				d> PSUBSCRIBE n*
				d~ psubscribe
				e> SSUBSCRIBE news
				e~ ssubscribe
				f> SSUBSCRIBE news
				f~ ssubscribe
				w> PUBLISH news x
				w< :4
				w> PUBLISH other x
				w< :1
				w> PUBLISH abc x
				w< :1
				w> PUBLISH xyz x
				w< :0
				w> SPUBLISH news x
				w< :2
				w> PUBSUB NUMSUB news other none
				w< *6\r\n$4\r\nnews\r\n:2\r\n$5\r\nother\r\n:1\r\n$4\r\nnone\r\n:0
				w> PUBSUB SHARDNUMSUB news
				w< *2\r\n$4\r\nnews\r\n:2
				w> PUBSUB NUMPAT
				w< :2
				w+ MULTI
				w+ PUBLISH news x
				w+ PUBSUB NUMSUB news
				w> EXEC
				w< +OK
				w< +QUEUED
				w< +QUEUED
				w< *2\r\n:4\r\n*2\r\n$4\r\nnews\r\n:2
				a> UNSUBSCRIBE
				a~ message
				a~ message
				a~ unsubscribe
				w> PUBSUB NUMSUB news
				w< *2\r\n$4\r\nnews\r\n:1
				w> PUBLISH news x
				w< :3
			`
			for name, addr := range sides {
				t.Run(name, func(t *testing.T) { proxytest.Converse(t, addr, nil, script) })
				eventually(t, "nobody is subscribed any more", func() string {
					if got := string(proxytest.Dial(t, p.Addr()).Do("PUBSUB", "NUMSUB", "news")); got != "*2\r\n$4\r\nnews\r\n:0\r\n" {
						return got
					}
					return ""
				})
			}
		})
	}
}
