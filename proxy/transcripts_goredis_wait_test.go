package proxy_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/push"
)

// The steps of go-redis's transcript that are about what one client does to another: streams, messages, commands that
// wait, invalidations, and who is who.

func (g *goRedis) streams(ctx context.Context) {
	read := func(who, id string, count int64, block time.Duration) any {
		return g.XReadGroup(ctx, &redis.XReadGroupArgs{
			Group: "g", Consumer: who, Streams: []string{"st", id}, Count: count, Block: block,
		})
	}
	const now = -1 // do not wait
	g.say("XGROUP CREATE", g.XGroupCreate(ctx, "st", "g", "0"), g.XGroupCreateMkStream(ctx, "st", "g", "0"),
		g.XGroupCreate(ctx, "st", "g", "0"))
	for i := range 5 {
		g.say("XADD", g.XAdd(ctx, &redis.XAddArgs{Stream: "st", ID: fmt.Sprint("1-", i+1), Values: []any{"n", i, everyByte, "\x00"}}))
	}
	g.say("XADD of an old id", g.XAdd(ctx, &redis.XAddArgs{Stream: "st", ID: "1-1", Values: []any{"n", 0}}))
	g.say("alice reads", read("alice", ">", 2, now))
	g.say("bob reads", read("bob", ">", 2, 50*time.Millisecond))
	g.say("alice's history", read("alice", "0", 0, now))
	g.say("XACK", g.XAck(ctx, "st", "g", "1-1", "1-3", "9-9"), read("alice", "0", 0, now), g.XPending(ctx, "st", "g"))
	g.say("the rest", read("alice", ">", 0, 50*time.Millisecond))
	g.say("BLOCK in vain", read("alice", ">", 0, 50*time.Millisecond))
	end := g.waiting(ctx, func() any { return read("alice", ">", 0, 5*time.Second) })
	g.XAdd(ctx, &redis.XAddArgs{Stream: "st", ID: "2-1", Values: []any{"from", "another"}})
	g.say("BLOCK until XADD", end())
	claim := &redis.XAutoClaimArgs{Stream: "st", Group: "g", Consumer: "carol", Start: "0-0", Count: 2}
	g.say("XAUTOCLAIM", g.XAutoClaimWithDeleted(ctx, claim))
	claim.Start, claim.Count = "1-5", 0
	g.say("XAUTOCLAIM of the rest", g.XAutoClaimJustID(ctx, claim))
	g.say("XCLAIM", g.XClaim(ctx, &redis.XClaimArgs{Stream: "st", Group: "g", Consumer: "dave", Messages: []string{"1-2"}}))
	for _, p := range g.XPendingExt(ctx, &redis.XPendingExtArgs{Stream: "st", Group: "g", Start: "-", End: "+", Count: 10}).Val() {
		g.say("pending", p.ID, p.Consumer, p.RetryCount)
	}
	end = g.waiting(ctx, func() any {
		return g.XRead(ctx, &redis.XReadArgs{Streams: []string{"st", "$"}, Block: 5 * time.Second})
	})
	g.XAdd(ctx, &redis.XAddArgs{Stream: "st", ID: "3-1", Values: []any{"n", 9}})
	g.say("XREAD BLOCK until XADD", end(), read("alice", ">", 0, now))
	end = g.waiting(ctx, func() any { return read("alice", ">", 0, 5*time.Second) })
	g.say("BLOCK until XGROUP DESTROY", g.XGroupDestroy(ctx, "st", "g"), end())
	g.say("NOGROUP", read("alice", ">", 0, now))
}

// receive returns what a subscriber has received next.
func receive(ctx context.Context, sub *redis.PubSub, n int) []any {
	got := make([]any, n)
	for i := range got {
		m, err := sub.ReceiveTimeout(ctx, 5*time.Second)
		if err != nil {
			m = err
		}
		got[i] = m
	}
	return got
}

// byPattern sorts messages: the order of a subscriber's patterns is the server's secret.
func byPattern(messages []any) []any {
	slices.SortFunc(messages, func(a, b any) int { return strings.Compare(told(a), told(b)) })
	return messages
}

func (g *goRedis) pubSub(ctx context.Context) {
	a, b := g.Subscribe(ctx, "news", everyByte), g.Subscribe(ctx, "news")
	c, d := g.SSubscribe(ctx, "shard", "news"), g.PSubscribe(ctx, "[x]*")
	g.say("a subscribes", receive(ctx, a, 2))
	g.say("b subscribes", b.PSubscribe(ctx, "n*", "*s"), receive(ctx, b, 3))
	g.say("c and d subscribe", receive(ctx, c, 2), receive(ctx, d, 1))
	for _, m := range []string{"", "one", everyByte, strings.Repeat(everyByte, 4096)} {
		g.say("PUBLISH to several", g.Publish(ctx, "news", m))
		// The channel's message comes first.
		g.say("they receive", receive(ctx, a, 1), receive(ctx, b, 1), byPattern(receive(ctx, b, 2)))
	}
	g.say("PUBLISH to others", g.Publish(ctx, everyByte, "bytes"), g.Publish(ctx, "x1", "x"), g.Publish(ctx, "alone", ""))
	g.say("SPUBLISH", g.SPublish(ctx, "shard", everyByte), g.SPublish(ctx, "news", "s"))
	g.say("others receive", receive(ctx, a, 1), receive(ctx, c, 2), receive(ctx, d, 1))
	g.say("PUBSUB NUMSUB", g.PubSubNumSub(ctx, "news", "none"))
	channels := g.PubSubChannels(ctx, "*").Val()
	slices.Sort(channels)
	g.say("PUBSUB", channels, g.PubSubNumPat(ctx), g.PubSubShardNumSub(ctx, "shard", "none"))
	g.say("they unsubscribe", a.Unsubscribe(ctx, "news"), b.PUnsubscribe(ctx, "*s"), c.SUnsubscribe(ctx, "shard"))
	g.say("and are told so", receive(ctx, a, 1), receive(ctx, b, 1), receive(ctx, c, 1))
	g.say("PUBLISH afterwards", g.Publish(ctx, "news", "two"), g.SPublish(ctx, "shard", "two"), receive(ctx, b, 2))
	g.say("PING of a subscriber", a.Ping(ctx, "still there"), receive(ctx, a, 1))
	g.say("all at once", b.Unsubscribe(ctx), b.PUnsubscribe(ctx), receive(ctx, b, 2))
	for _, sub := range []*redis.PubSub{a, b, c, d} {
		_ = sub.Close()
	}
	g.until("they are gone", func() bool { return g.PubSubNumPat(ctx).Val() == 0 && len(g.PubSubChannels(ctx, "*").Val()) == 0 })
	cmds, err := g.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Publish(ctx, "news", 1)
		p.Get(ctx, "none")
		return nil
	})
	g.say("PUBLISH in a transaction", cmds, err)
}

func (g *goRedis) blocking(ctx context.Context) {
	end := g.waiting(ctx, func() any { return g.BLPop(ctx, 5*time.Second, "q1", "q2") })
	g.say("BLPOP", g.RPush(ctx, "q2", everyByte), end())
	end = g.waiting(ctx, func() any { return g.BLMove(ctx, "q1", "q3", "LEFT", "RIGHT", 5*time.Second) })
	g.say("BLMOVE", g.RPush(ctx, "q1", "moved"), end(), g.LRange(ctx, "q3", 0, -1))
	end = g.waiting(ctx, func() any { return g.BZPopMin(ctx, 5*time.Second, "z1", "z2") })
	g.say("BZPOPMIN", g.ZAdd(ctx, "z2", redis.Z{Score: 1.5, Member: "a"}, redis.Z{Score: 2, Member: "b"}), end(),
		g.BZPopMin(ctx, time.Second, "z2"))
	end = g.waiting(ctx, func() any { return g.BRPop(ctx, 5*time.Second, "q4") })
	cmds, err := g.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.LPush(ctx, "q4", 1, 2, 3)
		p.LPop(ctx, "q4")
		return nil
	})
	g.say("BRPOP from a transaction", cmds, err, end())
	start := time.Now()
	g.say("in vain", g.Do(ctx, "BLPOP", "none", 0.1), g.Do(ctx, "BLMOVE", "none", "q3", "LEFT", "RIGHT", 0.1),
		g.Do(ctx, "BZPOPMIN", "none", 0.1), g.Do(ctx, "BLMPOP", 0.1, 1, "none", "LEFT"))
	g.say("they have waited", time.Since(start) >= 390*time.Millisecond)
	g.say("BLPOP of the wrong type", g.Set(ctx, "q5", "a string", 0), g.BLPop(ctx, time.Second, "q5"))
	g.say("BLPOP with a bad timeout", g.Do(ctx, "BLPOP", "q1", "soon"))
	end = g.waiting(ctx, func() any {
		cmds, err := g.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.BLPop(ctx, 5*time.Second, "q6")
			p.Get(ctx, "q5")
			return nil
		})
		return []any{cmds, err}
	})
	g.say("a pipeline behind BLPOP", g.RPush(ctx, "q6", "x"), end())
}

// invalidations collects what a client is told to forget.
type invalidations struct {
	mu  sync.Mutex
	got []any
}

func (i *invalidations) HandlePushNotification(_ context.Context, _ push.NotificationHandlerContext, n []any) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.got = append(i.got, n)
	return nil
}

func (i *invalidations) take() []any {
	i.mu.Lock()
	defer i.mu.Unlock()
	got := i.got
	i.got = nil
	return got
}

// tracking has CLIENT TRACKING on a connection of its own; the library looks for invalidations when it uses it.
func (g *goRedis) tracking(ctx context.Context) {
	if g.protocol == 2 {
		return
	}
	c, in := g.alone(redis.Options{}), &invalidations{}
	if err := c.RegisterPushNotificationHandler("invalidate", in, false); err != nil {
		g.t.Fatal(err)
	}
	pushed := func(what string, n int) {
		var got []any
		g.until(what, func() bool {
			err := c.Ping(ctx).Err()
			got = append(got, in.take()...)
			return err != nil || len(got) >= n
		})
		g.say(what, got)
	}
	g.say("TRACKING", c.ClientTrackingOn(ctx, nil), c.Get(ctx, "cached"), c.MGet(ctx, "cached:1", "cached:2"))
	g.say("SET", g.Set(ctx, "cached", 1, 0))
	pushed("invalidated", 1)
	g.say("only once", g.Set(ctx, "cached", 2, 0), g.MSet(ctx, "cached:1", 1, "cached:2", 1, "never read", 1))
	pushed("both", 2)
	g.say("its own", c.Get(ctx, "own"), c.Set(ctx, "own", 1, 0))
	pushed("comes too", 1)
	g.say("OPTIN", c.ClientTrackingOff(ctx), c.ClientTrackingOn(ctx, &redis.ClientTrackingOptions{OptIn: true}),
		c.Get(ctx, "cached:1"), c.Do(ctx, "CLIENT", "CACHING", "YES"), c.Get(ctx, "cached:2"))
	g.say("MSET", g.MSet(ctx, "cached:1", 1, "cached:2", 1))
	pushed("what it asked for", 1)
	bcast := &redis.ClientTrackingOptions{Bcast: true, Prefixes: []string{"user:"}, NoLoop: true}
	g.say("BCAST", c.ClientTrackingOff(ctx), c.ClientTrackingOn(ctx, bcast), c.Set(ctx, "user:2", 1, 0), g.Set(ctx, "user:1", 1, 0))
	pushed("by prefix", 1)
	g.say("FLUSHDB", g.FlushDB(ctx))
	pushed("everything", 1)
	g.say("OFF", c.ClientTrackingOff(ctx), g.Set(ctx, "user:1", 2, 0), c.Get(ctx, "user:1"), in.take())
	_ = c.Close()
}

// cache has the library's own cache.
func (g *goRedis) cache(ctx context.Context) {
	if g.protocol == 2 {
		return
	}
	c := g.alone(redis.Options{ClientSideCacheConfig: &redis.ClientSideCacheConfig{MaxEntries: 1000}})
	stats := func() string {
		s := c.CSCStats()
		return fmt.Sprintf("%d hits, %d misses, %d entries", s.Hits, s.Misses, s.Entries)
	}
	g.say("SET", g.MSet(ctx, "c1", 1, "c2", 2), stats())
	g.say("read", c.Get(ctx, "c1"), c.Get(ctx, "c1"), c.Get(ctx, "c2"), c.Get(ctx, "c3"), c.Get(ctx, "c3"), stats())
	entries := func(n int) func() bool { return func() bool { return c.CSCStats().Entries == n } }
	g.say("SET of another", g.Set(ctx, "c1", "new", 0))
	g.until("c1 is forgotten", entries(2))
	g.say("read again", c.Get(ctx, "c1"), c.Get(ctx, "c2"), stats())
	g.say("what was not there", g.Set(ctx, "c3", "there", 0))
	g.until("c3 is forgotten", entries(2))
	g.say("is there", c.Get(ctx, "c3"))
	g.say("EXPIRE", g.PExpire(ctx, "c2", time.Millisecond))
	g.until("c2 is forgotten", entries(2))
	g.say("FLUSHDB", g.FlushDB(ctx))
	g.until("everything is forgotten", entries(0))
	g.say("gone", c.Get(ctx, "c1"), c.Get(ctx, "c3"))
	_ = c.Close()
}

// redirect has the invalidations go to a subscriber of RESP2.
func (g *goRedis) redirect(ctx context.Context) {
	var id int64
	l := g.alone(redis.Options{Protocol: 2, OnConnect: func(ctx context.Context, cn *redis.Conn) (err error) {
		id, err = cn.ClientID(ctx).Result()
		return err
	}})
	listener := l.Subscribe(ctx, "__redis__:invalidate")
	g.say("the listener", receive(ctx, listener, 1))
	c := g.alone(redis.Options{})
	g.say("TRACKING", c.ClientTrackingOn(ctx, &redis.ClientTrackingOptions{Redirect: id}))
	g.say("redirected to the listener", c.Do(ctx, "CLIENT", "GETREDIR").Val() == any(id))
	g.say("read", c.Get(ctx, "cached"), c.MGet(ctx, "cached:1", "cached:2"))
	g.say("SET", g.Set(ctx, "cached", 1, 0), g.Set(ctx, "cached", 2, 0), g.MSet(ctx, "cached:2", 1, "never read", 1))
	g.say("invalidated", receive(ctx, listener, 2))
	bcast := &redis.ClientTrackingOptions{Redirect: id, Bcast: true, Prefixes: []string{"user:"}, NoLoop: true}
	g.say("BCAST", c.ClientTrackingOff(ctx), c.ClientTrackingOn(ctx, bcast), c.Set(ctx, "user:2", 1, 0), g.Set(ctx, "user:1", 1, 0))
	g.say("by prefix", receive(ctx, listener, 1))
	g.say("to nobody", c.ClientTrackingOn(ctx, &redis.ClientTrackingOptions{Redirect: 1 << 40}))
	_ = c.Close()
	_ = listener.Close()
	_ = l.Close()
}

func (g *goRedis) names(ctx context.Context) {
	c, other := g.alone(redis.Options{ClientName: "by-option", IdentitySuffix: "suffix"}), g.alone(redis.Options{DB: 2})
	g.say("a name by option", c.ClientGetName(ctx), other.ClientGetName(ctx))
	g.say("SETNAME", c.Do(ctx, "CLIENT", "SETNAME", "renamed"), c.ClientGetName(ctx))
	g.say("a name with a space", c.Do(ctx, "CLIENT", "SETNAME", "two words"), c.ClientGetName(ctx))
	info := func(what string, cmd *redis.ClientInfoCmd) (id int64) {
		i, err := cmd.Result()
		if err != nil {
			g.t.Fatal(err)
		}
		g.say(what, i.Name, i.Flags, i.DB, i.Sub, i.PSub, i.SSub, i.Multi, i.Watch, i.LastCmd, i.User, i.Redir, i.Resp,
			i.LibName, i.LibVer)
		return i.ID
	}
	for _, client := range []*redis.Client{c, other} {
		g.say("ID", info("INFO", client.ClientInfo(ctx)) == client.ClientID(ctx).Val())
	}
	g.say("two ids", c.ClientID(ctx).Val() == other.ClientID(ctx).Val())
	g.say("NO-EVICT, NO-TOUCH", c.Do(ctx, "CLIENT", "NO-EVICT", "ON"), c.Do(ctx, "CLIENT", "NO-TOUCH", "ON"))
	g.say("SETNAME to nothing", c.Do(ctx, "CLIENT", "SETNAME", ""), c.ClientGetName(ctx))
	info("INFO after NO-EVICT", c.ClientInfo(ctx))
	cmds, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.ClientInfo(ctx)
		return nil
	})
	g.say("a transaction", err)
	info("INFO in a transaction", cmds[0].(*redis.ClientInfoCmd))
	if g.protocol == 3 {
		g.say("TRACKING", other.ClientTrackingOn(ctx, &redis.ClientTrackingOptions{OptIn: true}))
		info("INFO with TRACKING", other.ClientInfo(ctx))
	}
	g.say("RESET", c.Do(ctx, "CLIENT", "SETNAME", "before"), c.Do(ctx, "RESET"), c.Do(ctx, "CLIENT", "GETNAME"))
	_ = c.Close()
	_ = other.Close()
}
