"""Writes down what redis-py is told, through the address given, for comparison. See README.md."""

import hashlib
import sys
import threading
import time

import redis

host, _, port = sys.argv[1].rpartition(":")
left_out = sys.argv[2:]
EVERY_BYTE = bytes(range(256))
MEGABYTE = EVERY_BYTE * 4096
protocol = 2


def connect(**options):
    options.setdefault("socket_timeout", 8)
    if protocol == 3:
        options["protocol"] = 3
    return redis.Redis(host=host, port=int(port), **options)


def alone(**options):
    """A client with one connection, which its state lives on."""
    return connect(single_connection_client=True, **options)


def hang_up(*clients):
    for c in clients:
        c.close()
        c.connection_pool.disconnect()


def show(v):
    if isinstance(v, bytes):
        return repr(v) if len(v) <= 80 else f"<{len(v)} bytes {hashlib.sha1(v).hexdigest()}>"
    if isinstance(v, dict):
        return "{" + ", ".join(sorted(f"{show(k)}: {show(e)}" for k, e in v.items())) + "}"
    if isinstance(v, set):
        return "{" + ", ".join(sorted(map(show, v))) + "}"
    if isinstance(v, (list, tuple)):
        return "[" + ", ".join(map(show, v)) + "]"
    if isinstance(v, Exception):
        return f"{type(v).__name__}: {v}"
    return repr(v)


def say(what, value):
    print(f"{what}: {show(value)}", flush=True)


def attempt(what, f, *args, **options):
    """Writes down what a call returns or raises."""
    try:
        say(what, f(*args, **options))
    except redis.RedisError as e:
        say(what, e)


def until(what, condition):
    deadline = time.monotonic() + 5
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.002)


class Waiting:
    """A call that waits on a thread of its own, and has reached the server when this is constructed."""

    def __init__(self, r, f, *args, **options):
        self.got = None
        was = r.info("clients")["blocked_clients"]
        self.thread = threading.Thread(target=self.run, args=(f, args, options))
        self.thread.start()
        until("a client blocks", lambda: r.info("clients")["blocked_clients"] > was)

    def run(self, f, args, options):
        try:
            self.got = f(*args, **options)
        except redis.RedisError as e:
            self.got = e

    def end(self, what):
        self.thread.join()
        say(what, self.got)


def pipelines(r):
    with r.pipeline(transaction=False) as p:
        for i in range(1000):
            p.set(f"p{i}", i).incr(f"p{i}").get(f"p{i}")
        say("1,000 times SET, INCR, GET", show(p.execute()).encode())
    with r.pipeline(transaction=False) as p:
        p.set("a", "x").incr("a").lpush("l", 1, 2).hset("h", mapping={"f": 1}).get("a").lpop("a")
        say("errors in the middle", p.execute(raise_on_error=False))
    with r.pipeline(transaction=False) as p:
        attempt("an error that is raised", p.set("a", "x").incr("a").execute)
    with r.pipeline(transaction=False) as p:
        p.eval("return ARGV[1]", 0, "one").get("a").select(1).get("a").select(0).blpop("none", timeout=0.01).get("a")
        say("all kinds of commands", p.execute())


def transactions(r):
    with r.pipeline() as p:
        say("MULTI", p.set("t", 1).incr("t").get("t").lpush("t:l", "a").lrange("t:l", 0, -1).execute())
    with r.pipeline() as p:
        say("errors of commands", p.set("t", "x").incr("t").get("t").execute(raise_on_error=False))
    with r.pipeline() as p:
        attempt("EXECABORT", p.execute_command("NOSUCHCOMMAND").set("never", 1).execute)
    say("left of it", r.exists("never"))

    with r.pipeline() as p:
        p.watch("w")
        say("under WATCH", p.get("w"))
        r.set("w", "theirs")
        p.multi()
        attempt("EXEC after a conflict", p.set("w", "mine").execute)
        p.watch("w")
        p.multi()
        attempt("EXEC of the retry", p.set("w", "mine").get("w").execute)
        p.watch("w")
        p.unwatch()
        r.set("w", "theirs")
        attempt("EXEC after UNWATCH", p.get("w").execute)
        p.watch("w", "other")
        r.delete("w")
        p.multi()
        attempt("EXEC after DEL", p.ping().execute)

    def count(client):
        for _ in range(10):
            client.transaction(lambda p: (n := int(p.get("n") or 0), p.multi(), p.set("n", n + 1)), "n")

    together([lambda: count(alone()) for _ in range(4)])
    say("4 clients counted to", r.get("n"))

    c = alone()
    say("MULTI by itself", c.execute_command("MULTI"))
    say("queued", [c.execute_command("SET", "q", 1), c.execute_command("INCR", "q")])
    say("not visible yet", r.get("q"))
    attempt("MULTI in MULTI", c.execute_command, "MULTI")
    attempt("WATCH in MULTI", c.execute_command, "WATCH", "q")
    attempt("EXEC by itself", c.execute_command, "EXEC")
    say("DISCARD", [c.execute_command(w) for w in ("MULTI", "DEL q", "DISCARD", "GET q")])
    attempt("EXEC without MULTI", c.execute_command, "EXEC")
    attempt("DISCARD without MULTI", c.execute_command, "DISCARD")


def together(jobs):
    failures = []

    def run(job):
        try:
            job()
        except Exception as e:  # raised on the main thread
            failures.append(e)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for e in failures:
        raise e


LIBRARY = """#!lua name=mine
redis.register_function('put', function(keys, args) return redis.call('set', keys[1], args[1]) end)
redis.register_function{function_name='look', callback=function(keys, args) return redis.call('get', keys[1]) end,
  flags={'no-writes'}}
"""


def scripts(r):
    say("EVAL", r.eval("return {KEYS[1], ARGV[1], 7, {1, {2}}, false}", 1, "k", "v"))
    say("a status", r.eval("return redis.status_reply('FINE')", 0))
    attempt("an error of its own", r.eval, "return redis.error_reply('MINE it is')", 0)
    attempt("an error of a command", r.eval, "redis.call('set', KEYS[1], 'x') return redis.call('incr', KEYS[1])", 1, "s")
    attempt("an error of the compiler", r.eval, "this is no Lua", 0)
    attempt("EVAL_RO that writes", r.execute_command, "EVAL_RO", "return redis.call('set', KEYS[1], 1)", 1, "s")
    attempt("EVALSHA of nothing", r.evalsha, "f" * 40, 0)
    script = r.register_script("return {redis.call('incrby', KEYS[1], ARGV[1]), ARGV[2]}")
    say("known before", r.script_exists(script.sha))
    say("EVALSHA that falls back", [script(keys=["s:n"], args=[i, EVERY_BYTE]) for i in range(3)])
    say("known after", r.script_exists(script.sha))
    r.script_flush()
    attempt("EVALSHA after SCRIPT FLUSH", r.evalsha, script.sha, 1, "s:n", 1, "x")
    with r.pipeline() as p:
        script(keys=["s:n"], args=[1, "x"], client=p)
        say("in a transaction", p.get("s:n").execute())
    say("FUNCTION LOAD", r.function_load(LIBRARY))
    say("FCALL", r.fcall("put", 1, "f", EVERY_BYTE))
    say("FCALL_RO", r.fcall_ro("look", 1, "f"))
    attempt("FCALL_RO that writes", r.fcall_ro, "put", 1, "f", 1)
    attempt("FCALL of nothing", r.fcall, "nothing", 0)
    attempt("FUNCTION LOAD again", r.function_load, LIBRARY)
    say("FUNCTION LIST", len(r.function_list()))
    say("FUNCTION DELETE", r.function_delete("mine"))
    say("a megabyte", r.eval("redis.call('set', KEYS[1], ARGV[1]) return ARGV[1]", 1, EVERY_BYTE, MEGABYTE))


def streams(r):
    attempt("XGROUP CREATE of nothing", r.xgroup_create, "st", "g")
    say("XGROUP CREATE", r.xgroup_create("st", "g", mkstream=True))
    attempt("XGROUP CREATE again", r.xgroup_create, "st", "g")
    say("XADD", [r.xadd("st", {"n": i, b"\x00\xff": EVERY_BYTE}, id=f"1-{i}") for i in range(1, 6)])
    attempt("XADD of an old id", r.xadd, "st", {"n": 0}, id="1-1")
    say("alice reads", r.xreadgroup("g", "alice", {"st": ">"}, count=2))
    say("bob reads", r.xreadgroup("g", "bob", {"st": ">"}, count=2, block=50))
    say("alice's history", r.xreadgroup("g", "alice", {"st": "0"}))
    say("XACK", r.xack("st", "g", "1-1", "1-3", "9-9"))
    say("alice's history after XACK", r.xreadgroup("g", "alice", {"st": "0"}))
    say("XPENDING", r.xpending("st", "g"))
    say("the rest", r.xreadgroup("g", "alice", {"st": ">"}, block=50))
    say("BLOCK in vain", r.xreadgroup("g", "alice", {"st": ">"}, block=50))
    waiting = Waiting(r, r.xreadgroup, "g", "alice", {"st": ">"}, block=5000)
    r.xadd("st", {"from": "another"}, id="2-1")
    waiting.end("BLOCK until XADD")
    say("XAUTOCLAIM", r.execute_command("XAUTOCLAIM", "st", "g", "carol", 0, "0-0", "COUNT", 2))
    say("XAUTOCLAIM of the rest", r.xautoclaim("st", "g", "carol", 0, start_id="1-5", justid=True))
    say("XCLAIM", r.xclaim("st", "g", "dave", 0, ["1-2"]))
    for p in r.xpending_range("st", "g", "-", "+", 10):
        del p["time_since_delivered"]
        say("pending", p)
    say("XREAD", r.xread({"st": "1-4"}, count=1))
    waiting = Waiting(r, r.xread, {"st": "$"}, block=5000)
    r.xadd("st", {"n": 9}, id="3-1")
    waiting.end("XREAD BLOCK until XADD")
    say("XLEN, XTRIM", [r.xlen("st"), r.xtrim("st", maxlen=2, approximate=False), r.xrange("st")])
    attempt("NOGROUP", r.xreadgroup, "none", "alice", {"st": ">"})
    say("all is read", len(r.xreadgroup("g", "alice", {"st": ">"})))
    waiting = Waiting(r, r.xreadgroup, "g", "alice", {"st": ">"}, block=5000)
    say("XGROUP DESTROY", r.xgroup_destroy("st", "g"))
    waiting.end("BLOCK until XGROUP DESTROY")


def receive(sub, n):
    got = [sub.get_message(timeout=5) for _ in range(n)]
    return [m and [m["type"], m["pattern"], m["channel"], m["data"]] for m in got]


def pubsub(r):
    a, b, c = r.pubsub(), r.pubsub(), r.pubsub()
    a.subscribe("news", EVERY_BYTE)
    say("a subscribes", receive(a, 2))
    b.subscribe("news")
    b.psubscribe("n*", "*s")
    say("b subscribes", receive(b, 3))
    c.psubscribe("[x]*")
    say("c subscribes", receive(c, 1))
    say("PUBLISH to several", [r.publish("news", m) for m in (b"", "one", EVERY_BYTE, MEGABYTE)])
    say("PUBLISH to others", [r.publish(EVERY_BYTE, "bytes"), r.publish("x1", "x"), r.publish("nobody", "is there")])
    say("a receives", receive(a, 5))
    # The channel's message comes first; the order of patterns is the server's secret.
    say("b receives", [receive(b, 1) + sorted(map(show, receive(b, 2))) for _ in range(4)] + receive(b, 1))
    say("c receives", receive(c, 1))
    say("PUBSUB CHANNELS", sorted(r.pubsub_channels()))
    say("PUBSUB NUMSUB", r.pubsub_numsub("news", "none"))
    say("PUBSUB NUMPAT", r.pubsub_numpat())
    a.unsubscribe("news")
    b.punsubscribe("*s")
    say("they unsubscribe", [receive(a, 1), receive(b, 1)])
    say("PUBLISH afterwards", r.publish("news", "two"))
    say("b receives less", receive(b, 2))
    a.ping("still there")
    say("PING of a subscriber", receive(a, 1))
    a.execute_command("GET", "k")
    attempt("GET of a subscriber", a.parse_response)
    a.unsubscribe()
    say("a leaves", receive(a, 1))
    a.execute_command("GET", "k")
    attempt("GET of one who was a subscriber", a.parse_response)
    b.unsubscribe("news", "never")
    say("b leaves", receive(b, 2))
    for sub in (a, b, c):
        sub.close()
    until("they are gone", lambda: r.publish("news", "nobody") + r.pubsub_numpat() == 0)
    with r.pipeline() as p:
        say("PUBLISH in a transaction", p.publish("news", 1).get("k").execute())


def blocking(r):
    waiting = Waiting(r, r.blpop, ["q1", "q2"], timeout=5)
    r.rpush("q2", EVERY_BYTE)
    waiting.end("BLPOP")
    waiting = Waiting(r, r.blmove, "q1", "q3", 5, "LEFT", "RIGHT")
    r.rpush("q1", "moved")
    waiting.end("BLMOVE")
    say("where it went", r.lrange("q3", 0, -1))
    waiting = Waiting(r, r.bzpopmin, ["z1", "z2"], timeout=5)
    r.zadd("z2", {"a": 1.5, "b": 2})
    waiting.end("BZPOPMIN")
    say("BZPOPMIN at once", r.bzpopmin("z2", timeout=1))
    waiting = Waiting(r, r.brpop, "q4", timeout=5)
    with r.pipeline() as p:
        p.lpush("q4", 1, 2, 3).lpop("q4").execute()
    waiting.end("BRPOP from a transaction")
    start = time.monotonic()
    say("in vain", [
        r.blpop("none", timeout=0.1), r.brpop("none", timeout=0.1), r.blmove("none", "q3", 0.1),
        r.bzpopmin("none", timeout=0.1), r.execute_command("BLMPOP", 0.1, 1, "none", "LEFT")])
    say("they have waited", time.monotonic() - start >= 0.5)
    r.set("q5", "a string")
    attempt("BLPOP of the wrong type", r.blpop, "q5", timeout=1)
    attempt("BLPOP with a bad timeout", r.execute_command, "BLPOP", "q1", "soon")
    with r.pipeline() as p:
        say("BLPOP in a transaction", p.blpop("none", timeout=0).execute())


def redirect(r):
    """In RESP2, invalidations go to a subscriber: CLIENT TRACKING ON REDIRECT id."""
    listener = r.pubsub()
    listener.execute_command("CLIENT", "ID")
    id = listener.parse_response()
    listener.subscribe("__redis__:invalidate")
    say("the listener", receive(listener, 1))
    c = alone()
    say("TRACKING", c.client_tracking_on(clientid=id))
    say("redirected to the listener", c.client_getredir() == id)
    say("read", [c.get("cached"), c.mget("cached:1", "cached:2")])
    r.set("cached", 1)
    say("invalidated", receive(listener, 1))
    r.set("cached", 2)
    say("and only once", listener.get_message(timeout=0.1))
    r.mset({"cached:2": 1, "never read": 1})
    say("one of two", receive(listener, 1))
    say("TRACKING OFF", c.client_tracking_off())
    say("TRACKING BCAST", c.client_tracking_on(clientid=id, bcast=True, prefix=["user:", "cached"], noloop=True))
    r.set("user:1", 1)
    say("by prefix", receive(listener, 1))
    c.set("user:2", 1)
    r.set("cached", 3)
    say("not what is its own", receive(listener, 1))
    r.flushdb()
    say("FLUSHDB", receive(listener, 1))
    attempt("a redirection to nobody", c.client_tracking_on, clientid=1 << 40)
    hang_up(c)
    listener.close()


def scanning(r):
    n = 2000
    with r.pipeline(transaction=False) as p:
        for i in range(n):
            p.set(f"scan:{i}", i).hset("scan-h", f"f{i}", i).sadd("scan-s", f"m{i}").zadd("scan-z", {f"m{i}": i})
        p.execute()
    say("SCAN", show(set(r.scan_iter(match="scan:*", count=100))).encode())
    say("SCAN of a type", set(r.scan_iter(count=500, _type="zset")))
    say("HSCAN", show(dict(r.hscan_iter("scan-h", count=200))).encode())
    say("SSCAN", show(set(r.sscan_iter("scan-s", match="m1*", count=200))).encode())
    say("ZSCAN", show(set(r.zscan_iter("scan-z", count=200))).encode())
    say("SCAN of nothing", list(r.scan_iter(match="nothing*", count=5000)))
    say("DBSIZE", r.dbsize() >= n)


def binary(r):
    for name, v in (("every byte", EVERY_BYTE), ("empty", b""), ("1 MB", MEGABYTE), ("line ends", b"\r\n$-1\r\n*")):
        say(f"a value: {name}", [r.set("b", v), r.get("b"), r.strlen("b"), r.append("b", v), r.getrange("b", 250, 260)])
        say(f"a key: {name}", [r.set(v, "x"), r.get(v), r.exists(v), r.delete(v), r.get(v)])
        say(f"a field: {name}", [r.hset("bh", v, v), r.hgetall("bh"), r.delete("bh")])
        say(f"ECHO: {name}", r.echo(v))
        say(f"a script's: {name}", r.eval("return {KEYS[1], ARGV[1], #ARGV[1]}", 1, v, v))
        with r.pipeline() as p:
            say(f"a transaction's: {name}", p.set(v, v).get(v).delete(v).execute())
    say("1,000 arguments", r.mset({b"m%d\x00" % i: EVERY_BYTE for i in range(1000)}))
    say("1,000 values", show(r.mget([b"m%d\x00" % i for i in range(1000)])).encode())


def databases(r):
    clients = [connect(db=db) for db in range(4)]
    for db, c in enumerate(clients):
        c.flushdb()
        c.set("same", f"of {db}")
        c.rpush("list", db)
    say("each its own", [c.get("same") for c in clients])
    say("MOVE", [clients[1].move("same", 3), clients[1].set("moved", 1), clients[1].move("moved", 3), clients[3].get("moved")])
    say("DBSIZE", [c.dbsize() for c in clients[1:]])
    c = alone(db=1)
    say("SELECT", [c.select(2), c.get("same"), c.select(3), c.get("same")])
    attempt("SELECT of none", c.select, 99)
    say("still there", c.get("same"))
    say("SWAPDB", [c.swapdb(2, 3), c.get("same"), clients[2].get("same")])
    waiting = Waiting(r, clients[2].blpop, "waiting", timeout=5)
    say("not there", clients[3].rpush("waiting", "3"))
    say("but here", clients[2].rpush("waiting", "2"))
    waiting.end("BLPOP")
    with c.pipeline() as p:
        say("SELECT in a transaction", p.select(1).get("same").select(3).get("same").execute())
    say("COPY", [c.copy("same", "same", destination_db=1, replace=True), clients[1].get("same")])
    clients[3].flushdb()
    say("FLUSHDB", [c.dbsize() > 0 for c in clients])
    hang_up(c, *clients)


INFO = ("flags", "db", "sub", "psub", "ssub", "multi", "watch", "redir", "user", "resp", "lib-name", "lib-ver", "name", "cmd")


def names(r):
    c = alone(client_name="by-option")
    say("a name by option", c.client_getname())
    say("no name", alone().client_getname())
    say("SETNAME", [c.client_setname("renamed"), c.client_getname()])
    attempt("a name with a space", c.client_setname, "two words")
    say("still", c.client_getname())
    info = c.client_info()
    say("INFO", {k: info[k] for k in INFO if k in info})
    other = alone(db=2)
    say("ID", [c.client_id() == c.client_id(), c.client_id() == other.client_id(), str(info["id"]) == str(c.client_id())])
    info = other.client_info()
    say("INFO of another", {k: info[k] for k in INFO if k in info})
    say("its address is one", other.client_info()["addr"] != c.client_info()["addr"])
    say("NO-EVICT", c.client_no_evict("ON"))
    info = c.client_info()
    say("INFO after NO-EVICT", {k: info[k] for k in INFO if k in info})
    with other.pipeline() as p:
        info = p.get("k").client_info().execute()[1]
    say("INFO in a transaction", {k: info[k] for k in INFO if k in info})
    say("SETNAME to nothing", [c.client_setname(""), c.client_getname()])
    c.client_setname("before")
    say("RESET", [c.execute_command("RESET"), c.client_getname()])
    hang_up(c, other)


def errors(r):
    r.set("string", "x")
    attempt("WRONGTYPE", r.lpush, "string", 1)
    attempt("not an integer", r.incr, "string")
    attempt("an unknown command", r.execute_command, "NOSUCHCOMMAND", "a", "b")
    attempt("too few arguments", r.execute_command, "GET")
    attempt("an unknown subcommand", r.execute_command, "CLIENT", "NOSUCHTHING")
    attempt("a syntax error", r.execute_command, "SET", "a", "b", "NONSENSE")
    attempt("a bad expiry", r.execute_command, "SET", "a", "b", "EX", 0)
    attempt("out of range", r.lset, "none", 1, 1)
    attempt("AUTH of nobody", alone().execute_command, "AUTH", "nobody", "wrong")
    attempt("CONFIG SET of nothing", r.config_set, "nothing", 1)
    attempt("DUMP that was tampered with", r.restore, "dump", 0, b"nonsense")
    attempt("a cursor", r.execute_command, "SCAN", "x")
    say("and all is well", r.get("string"))


for protocol in (2, 3) if int(redis.__version__.split(".")[0]) >= 5 else (2,):
    client = connect()
    client.flushall()
    for step in (pipelines, transactions, scripts, streams, pubsub, blocking, redirect, scanning, binary, databases,
                 names, errors):
        if step.__name__ in left_out or step is redirect and protocol == 3:
            continue
        print(f"# {step.__name__}, RESP{protocol}", flush=True)
        step(client)
