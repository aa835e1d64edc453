package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// The steps of go-redis's transcript that are about data: pipelines, transactions, scripts, scanning, binary values,
// databases and errors.

var everyByte = func() string {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return string(b)
}()

func (g *goRedis) pipelines(ctx context.Context) {
	p := g.Pipeline()
	for i := range 1000 {
		key := fmt.Sprint("p", i)
		p.Set(ctx, key, i, 0)
		p.Incr(ctx, key)
		p.Get(ctx, key)
	}
	cmds, err := p.Exec(ctx)
	g.say("1,000 times SET, INCR, GET", told(cmds), err)
	cmds, err = g.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Set(ctx, "a", "x", 0)
		p.Incr(ctx, "a")
		p.LPush(ctx, "l", 1, 2)
		p.HSet(ctx, "h", "f", 1)
		p.HGetAll(ctx, "h")
		p.LPop(ctx, "a")
		return nil
	})
	g.say("errors in the middle", cmds, err)
	c := g.alone(redis.Options{})
	cmds, err = c.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Eval(ctx, "return ARGV[1]", nil, "one")
		p.Get(ctx, "a")
		p.Do(ctx, "SELECT", 1)
		p.Get(ctx, "a")
		p.Do(ctx, "SELECT", 0)
		p.Do(ctx, "BLPOP", "none", 0.01)
		p.Get(ctx, "a")
		return nil
	})
	g.say("all kinds of commands", cmds, err)
	_ = c.Close()
}

func (g *goRedis) transactions(ctx context.Context) {
	cmds, err := g.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Set(ctx, "t", 1, 0)
		p.Incr(ctx, "t")
		p.Get(ctx, "t")
		p.HSet(ctx, "t:h", "f", "v")
		p.HGetAll(ctx, "t:h")
		return nil
	})
	g.say("MULTI", cmds, err)
	cmds, err = g.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Set(ctx, "t", "x", 0)
		p.Incr(ctx, "t")
		p.Get(ctx, "t")
		return nil
	})
	g.say("errors of commands", cmds, err)
	_, err = g.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Do(ctx, "NOSUCHCOMMAND")
		p.Set(ctx, "never", 1, 0)
		return nil
	})
	g.say("EXECABORT", err, g.Exists(ctx, "never"))
	c := g.alone(redis.Options{})
	g.say("MULTI by itself", c.Do(ctx, "MULTI"), c.Do(ctx, "SET", "q", 1), c.Do(ctx, "INCR", "q"), g.Get(ctx, "q"),
		c.Do(ctx, "MULTI"), c.Do(ctx, "WATCH", "q"), c.Do(ctx, "EXEC"))
	g.say("DISCARD", c.Do(ctx, "MULTI"), c.Do(ctx, "DEL", "q"), c.Do(ctx, "DISCARD"), c.Get(ctx, "q"))
	g.say("NOSUCHCOMMAND by itself", c.Do(ctx, "MULTI"), c.Do(ctx, "NOSUCHCOMMAND"), c.Do(ctx, "GET", "q"), c.Do(ctx, "EXEC"))
	g.say("without MULTI", c.Do(ctx, "EXEC"), c.Do(ctx, "DISCARD"))
	_ = c.Close()
}

func (g *goRedis) watch(ctx context.Context) {
	tries := 0
	conflict := func(tx *redis.Tx) error {
		tries++
		v := tx.Get(ctx, "w")
		if tries == 1 {
			g.Set(ctx, "w", "theirs", 0)
		}
		cmds, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Append(ctx, "w", " and mine")
			return nil
		})
		g.say("under WATCH", v, cmds, err)
		return err
	}
	for err := error(redis.TxFailedErr); errors.Is(err, redis.TxFailedErr); {
		err = g.Watch(ctx, conflict, "w")
		g.say("WATCH", err)
	}
	err := g.Watch(ctx, func(tx *redis.Tx) error {
		g.say("UNWATCH", tx.Unwatch(ctx), g.Set(ctx, "w", "again", 0))
		cmds, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error { p.Get(ctx, "w"); return nil })
		g.say("EXEC after UNWATCH", cmds)
		return err
	}, "w")
	g.say("and all is well", err)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for done := 0; done < 10; {
				err := g.Watch(ctx, func(tx *redis.Tx) error {
					n, _ := tx.Get(ctx, "count").Int()
					_, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error { p.Set(ctx, "count", n+1, 0); return nil })
					return err
				}, "count")
				switch {
				case err == nil:
					done++
				case !errors.Is(err, redis.TxFailedErr):
					g.t.Errorf("counting: %v", err)
					return
				}
			}
		})
	}
	all.Wait()
	g.say("4 clients counted to", g.Get(ctx, "count"))
}

func (g *goRedis) scripts(ctx context.Context) {
	g.say("EVAL", g.Eval(ctx, "return {KEYS[1], ARGV[1], 7, {1, {2}}, false}", []string{"k"}, "v"))
	g.say("a status", g.Eval(ctx, "return redis.status_reply('FINE')", nil))
	g.say("types of RESP3", g.Eval(ctx, `redis.setresp(3) redis.call('hset', KEYS[1], 'f', 'v')
		return {redis.call('hgetall', KEYS[1]), {double=1.5}, true, {big_number='12345678901234567890'}}`, []string{"h3"}))
	g.say("an error of its own", g.Eval(ctx, "return redis.error_reply('MINE it is')", nil))
	g.say("an error of a command", g.Eval(ctx, "redis.call('set', 's', 'x') return redis.call('incr', 's')", nil))
	g.say("an error of the compiler", g.Eval(ctx, "this is no Lua", nil))
	g.say("EVAL_RO that writes", g.EvalRO(ctx, "return redis.call('set', KEYS[1], 1)", []string{"s"}))
	g.say("EVALSHA of nothing", g.EvalSha(ctx, strings.Repeat("f", 40), nil))
	script := redis.NewScript("return {redis.call('incrby', KEYS[1], ARGV[1]), ARGV[2]}")
	g.say("known before", script.Exists(ctx, g))
	for i := range 3 {
		g.say("EVALSHA that falls back", script.Run(ctx, g, []string{"s:n"}, i, everyByte))
	}
	g.say("known after", script.Exists(ctx, g), g.ScriptFlush(ctx), script.EvalSha(ctx, g, []string{"s:n"}, 1, "x"))
	cmds, err := g.TxPipelined(ctx, func(p redis.Pipeliner) error {
		script.Eval(ctx, p, []string{"s:n"}, 4, "x")
		script.EvalSha(ctx, p, []string{"s:n"}, 5, "x")
		p.Get(ctx, "s:n")
		return nil
	})
	g.say("in a transaction", cmds, err)
	g.say("a megabyte", g.Eval(ctx, "redis.call('set', KEYS[1], ARGV[1]) return ARGV[1]", []string{everyByte},
		strings.Repeat(everyByte, 4096)))
}

func (g *goRedis) functions(ctx context.Context) {
	const library = `#!lua name=mine
redis.register_function('put', function(keys, args) return redis.call('set', keys[1], args[1]) end)
redis.register_function{function_name='look', callback=function(keys, args) return redis.call('get', keys[1]) end,
  flags={'no-writes'}}
`
	g.say("FUNCTION LOAD", g.FunctionLoad(ctx, library), g.FunctionLoad(ctx, library))
	g.say("FCALL", g.FCall(ctx, "put", []string{"f"}, everyByte), g.FCallRO(ctx, "look", []string{"f"}))
	g.say("FCALL_RO that writes", g.FCallRO(ctx, "put", []string{"f"}, 1))
	g.say("FCALL of nothing", g.FCall(ctx, "nothing", nil))
	g.say("FUNCTION LIST", len(g.FunctionList(ctx, redis.FunctionListQuery{WithCode: true}).Val()))
	cmds, err := g.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.FCall(ctx, "put", []string{"f"}, "x")
		p.FCall(ctx, "look", []string{"f"})
		return nil
	})
	g.say("in a transaction", cmds, err)
	g.say("FUNCTION DELETE", g.FunctionDelete(ctx, "mine"), g.FCall(ctx, "put", []string{"f"}, 1))
}

func (g *goRedis) scanning(ctx context.Context) {
	p := g.Pipeline()
	for i := range 2000 {
		p.Set(ctx, fmt.Sprint("scan:", i), i, 0)
		p.HSet(ctx, "scan-h", fmt.Sprint("f", i), i)
		p.SAdd(ctx, "scan-s", fmt.Sprint("m", i))
		p.ZAdd(ctx, "scan-z", redis.Z{Score: float64(i), Member: fmt.Sprint("m", i)})
	}
	_, err := p.Exec(ctx)
	g.say("to be scanned", err)
	for _, scan := range []struct {
		what string
		it   *redis.ScanIterator
		size int // of an entry
	}{
		{"SCAN", g.Scan(ctx, 0, "scan:*", 100).Iterator(), 1},
		{"SCAN of a type", g.ScanType(ctx, 0, "", 500, "zset").Iterator(), 1},
		{"HSCAN", g.HScan(ctx, "scan-h", 0, "", 200).Iterator(), 2},
		{"SSCAN", g.SScan(ctx, "scan-s", 0, "m1*", 200).Iterator(), 1},
		{"ZSCAN", g.ZScan(ctx, "scan-z", 0, "", 200).Iterator(), 2},
		{"SCAN of nothing", g.Scan(ctx, 0, "nothing*", 5000).Iterator(), 1},
	} {
		var got []string
		for scan.it.Next(ctx) {
			entry := scan.it.Val()
			if scan.size == 2 && scan.it.Next(ctx) {
				entry += "=" + scan.it.Val()
			}
			got = append(got, entry)
		}
		slices.Sort(got)
		got = slices.Compact(got)
		g.say(scan.what, len(got), strings.Join(got, " "), scan.it.Err())
	}
}

func (g *goRedis) binary(ctx context.Context) {
	for _, v := range []string{everyByte, "", strings.Repeat(everyByte, 4096), "\r\n$-1\r\n*"} {
		g.say("a value", v, g.Set(ctx, "b", v, 0), g.Get(ctx, "b"), g.Append(ctx, "b", v), g.GetRange(ctx, "b", 250, 260))
		g.say("a key", g.Set(ctx, v, "x", 0), g.Get(ctx, v), g.Exists(ctx, v), g.Del(ctx, v), g.Get(ctx, v))
		g.say("a field", g.HSet(ctx, "bh", v, v), g.HGetAll(ctx, "bh"), g.Del(ctx, "bh"))
		g.say("ECHO", g.Echo(ctx, v))
		g.say("a script's", g.Eval(ctx, "return {KEYS[1], ARGV[1], #ARGV[1]}", []string{v}, v))
		cmds, err := g.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, v, v, 0)
			p.Get(ctx, v)
			p.Del(ctx, v)
			return nil
		})
		g.say("a transaction's", cmds, err)
	}
	var pairs, keys []string
	for i := range 1000 {
		keys = append(keys, fmt.Sprintf("m%d\x00", i))
		pairs = append(pairs, keys[i], everyByte)
	}
	g.say("1,000 arguments", g.MSet(ctx, pairs))
	g.say("1,000 values", told(g.MGet(ctx, keys...).Val()))
}

func (g *goRedis) databases(ctx context.Context) {
	clients := make([]*redis.Client, 4)
	for db := range clients {
		clients[db] = g.alone(redis.Options{DB: db})
		g.say("set", clients[db].FlushDB(ctx), clients[db].Set(ctx, "same", fmt.Sprint("of ", db), 0))
	}
	for _, c := range clients {
		g.say("each its own", c.Get(ctx, "same"), c.DBSize(ctx))
	}
	g.say("MOVE", clients[1].Move(ctx, "same", 3), clients[1].Set(ctx, "moved", 1, 0), clients[1].Move(ctx, "moved", 3),
		clients[3].Get(ctx, "moved"))
	c := g.alone(redis.Options{DB: 1})
	g.say("SELECT", c.Do(ctx, "SELECT", 2), c.Get(ctx, "same"), c.Do(ctx, "SELECT", 3), c.Get(ctx, "same"))
	g.say("SELECT of none", c.Do(ctx, "SELECT", 99), c.Get(ctx, "same"))
	g.say("SWAPDB", c.Do(ctx, "SWAPDB", 2, 3), c.Get(ctx, "same"), clients[2].Get(ctx, "same"))
	end := g.waiting(ctx, func() any { return clients[2].Do(ctx, "BLPOP", "waiting", 5) })
	g.say("not there", clients[3].RPush(ctx, "waiting", 3))
	cmds, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Do(ctx, "SELECT", 2)
		p.RPush(ctx, "waiting", 2)
		p.Do(ctx, "SELECT", 1)
		return nil
	})
	g.say("but here", cmds, err, end(), c.Get(ctx, "same"))
	_ = c.Close()
	g.say("COPY", clients[1].Copy(ctx, "same", "same", 3, true), clients[3].Get(ctx, "same"))
	g.say("FLUSHDB", clients[3].FlushDB(ctx))
	for _, c := range clients {
		g.say("left", c.DBSize(ctx).Val() > 0)
		_ = c.Close()
	}
}

func (g *goRedis) errors(ctx context.Context) {
	g.say("SET", g.Set(ctx, "string", "x", 0))
	g.say("WRONGTYPE", g.LPush(ctx, "string", 1))
	g.say("not an integer", g.Incr(ctx, "string"))
	g.say("an unknown command", g.Do(ctx, "NOSUCHCOMMAND", "a", "b"))
	g.say("too few arguments", g.Do(ctx, "GET"))
	g.say("an unknown subcommand", g.Do(ctx, "CLIENT", "NOSUCHTHING"))
	g.say("a syntax error", g.Do(ctx, "SET", "a", "b", "NONSENSE"))
	g.say("a bad expiry", g.Do(ctx, "SET", "a", "b", "EX", 0))
	g.say("a bad protocol", g.Do(ctx, "HELLO", 4))
	g.say("AUTH of nobody", g.Do(ctx, "AUTH", "nobody", "wrong"))
	g.say("CONFIG SET of nothing", g.ConfigSet(ctx, "nothing", "1"))
	g.say("DUMP that was tampered with", g.Restore(ctx, "dump", 0, "nonsense"))
	g.say("and all is well", g.Get(ctx, "string"))
}
