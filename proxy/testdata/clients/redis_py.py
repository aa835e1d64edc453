"""What applications do with redis-py, through the address given. See README.md."""

import os
import sys
import threading
import time

import redis

host, _, port = sys.argv[1].rpartition(":")


def connect(protocol, **options):
    """A client, in RESP3 if the library knows how to ask for it."""
    options.setdefault("socket_timeout", 20)
    if protocol == 3:
        options["protocol"] = 3
    return redis.Redis(host=host, port=int(port), **options)


def check(got, want, what):
    if got != want:
        print(f"FAIL {what}: got {str(got)[:200]!r}, want {str(want)[:200]!r}")
        sys.exit(1)


def connecting(r, protocol):
    check(r.ping(), True, "PING")
    named = connect(protocol, client_name="me")
    check(named.client_getname(), "me", "CLIENT GETNAME")
    check(r.client_getname(), None, "CLIENT GETNAME of a client without a name")
    check(r.client_id() > 0, True, "CLIENT ID")
    check(r.info("server")["redis_version"] != "", True, "INFO")


def pipeline(r, _):
    with r.pipeline(transaction=False) as p:
        for i in range(5000):
            p.set(f"p{i}", f"value-{i}")
            p.get(f"p{i}")
        got = p.execute()
    check(len(got), 10000, "replies to a pipeline")
    for i in range(5000):
        check(got[2 * i + 1], f"value-{i}".encode(), f"reply {i} of a pipeline")


def transactions(r, _):
    for i in range(100):
        with r.pipeline(transaction=True) as p:
            got = p.set("tx", i).incr("tx").get("tx").execute()
        check(got, [True, i + 1, str(i + 1).encode()], "a transaction")
    try:
        with r.pipeline(transaction=True) as p:
            p.execute_command("NOSUCHCOMMAND").set("never", "set").execute()
        check("nothing raised", "an error", "a transaction with an unknown command")
    except redis.ResponseError:
        pass
    check(r.exists("never"), 0, "what a refused transaction left")


def watch(r, _):
    r.set("counter", 0)
    failures = []

    def count():
        try:
            for _ in range(25):
                def step(p):
                    n = int(p.get("counter"))
                    p.multi()
                    p.set("counter", n + 1)
                r.transaction(step, "counter")
        except Exception as e:  # reported by the main thread
            failures.append(e)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check(failures, [], "WATCH loops")
    check(r.get("counter"), b"200", "the counter")


def blocking_pop(r, _):
    got = []
    t = threading.Thread(target=lambda: got.append(r.blpop("queue", timeout=10)))
    t.start()
    r.rpush("queue", "job")
    t.join()
    check(got, [(b"queue", b"job")], "BLPOP")
    start = time.monotonic()
    check(r.blpop("queue", timeout=1), None, "BLPOP in vain")
    check(time.monotonic() - start >= 0.9, True, "BLPOP in vain waits")


def subscribe(r, _):
    sub = r.pubsub()
    sub.subscribe("news")
    sub.psubscribe("alerts.*")
    for _ in range(2):
        check(sub.get_message(timeout=10)["type"] in ("subscribe", "psubscribe"), True, "SUBSCRIBE")
    for i in range(200):
        check(r.publish("news", i), 1, "PUBLISH")
        check(r.publish("alerts.red", i), 1, "PUBLISH to a pattern")
    for i in range(400):
        check(sub.get_message(timeout=10)["data"], str(i // 2).encode(), "a message")
    sub.unsubscribe()
    sub.punsubscribe()
    sub.close()


def databases(r, protocol):
    failures = []

    def work(db):
        try:
            c = connect(protocol, db=db)
            for i in range(200):
                c.set("same", f"{db}.{i}")
                got = c.get("same")
                if got != f"{db}.{i}".encode():
                    failures.append((db, i, got))
        except Exception as e:  # reported by the main thread
            failures.append(e)

    threads = [threading.Thread(target=work, args=(db,)) for db in range(5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check(failures, [], "databases")


def values(r, _):
    for v in (b"", b"\r\n", os.urandom(1 << 20), b"0123456789abcde" * ((64 << 20) // 15)):
        check(r.set("value", v), True, f"SET of {len(v)} bytes")
        check(r.get("value") == v, True, f"GET of {len(v)} bytes")
    r.delete("value")


def scripts(r, _):
    r.delete("script:n")
    script = r.register_script("return {KEYS[1], ARGV[1], redis.call('incr', KEYS[1])}")
    for i in range(3):
        check(script(keys=["script:n"], args=["x"]), [b"script:n", b"x", i + 1], "a script")


def supports_resp3():
    return int(redis.__version__.split(".")[0]) >= 5


print(f"redis-py {redis.__version__}")
for protocol in (2, 3) if supports_resp3() else (2,):
    client = connect(protocol)
    client.flushall()
    for step in (connecting, pipeline, transactions, watch, blocking_pop, subscribe, databases, values, scripts):
        step(client, protocol)
        print(f"ok {step.__name__} (RESP{protocol})", flush=True)
