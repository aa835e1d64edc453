"""Programs that leak, each in its own way, and programs that do not but look a little like it. See README.md."""

import sys
import threading
import time

import redis

name, address = sys.argv[1:3]
end = time.monotonic() + float(sys.argv[3]) if len(sys.argv) > 3 else float("inf")

if address.startswith("unix:"):
    where = {"unix_socket_path": address[len("unix:"):]}
else:
    host, _, port = address.rpartition(":")
    where = {"host": host, "port": int(port)}


def pool(**options):
    if "unix_socket_path" not in where:
        return redis.ConnectionPool(**where, **options)
    path = {"path": where["unix_socket_path"]}
    return redis.ConnectionPool(connection_class=redis.UnixDomainSocketConnection, **path, **options)


def each(seconds, f):
    """Calls f with 0, 1, 2 and so on until the end."""
    i = 0
    while time.monotonic() < end:
        f(i)
        i += 1
        time.sleep(seconds)


def at_once(n, f):
    """Calls f in n threads, and waits for them."""
    threads = [threading.Thread(target=f, daemon=True) for _ in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def connection_per_request():
    """Makes a client, and with it a pool, for each request."""
    each(0.5, lambda _: redis.Redis(**where, client_name=name).get("greeting"))


def no_close_on_error():
    """Takes a connection out of the pool and does not give it back when the request fails."""
    connections = pool(client_name=name)
    redis.Redis(connection_pool=connections).set("order:4", "not a hash")

    def handle(i):
        connection = connections.get_connection("HGET")
        connection.send_command("HGET", f"order:{i % 5}", "total")
        connection.read_response()
        connections.release(connection)

    def request(i):
        try:
            handle(i)
        except redis.ResponseError:
            pass  # the visitor is shown an apology

    each(0.2, request)


def pool_too_large():
    """Opens sixty connections in advance and uses one or two."""
    connections = pool(client_name=name)
    for connection in [connections.get_connection("PING") for _ in range(60)]:
        connections.release(connection)
    client = redis.Redis(connection_pool=connections)
    at_once(2, lambda: each(0.3, lambda _: client.get("greeting")))


def forgotten_subscribers():
    """Subscribes for each visitor, and does not notice that they leave."""
    client = redis.Redis(**where, client_name=name)
    visitors = []

    def come(i):
        news = client.pubsub()
        news.subscribe(f"visitor:{i}")
        visitors.append(news)

    each(1, come)


def never_used():
    """Takes a connection out of the pool to see whether Redis is there. It says nothing, not even its name."""
    said = {"lib_name": None, "lib_version": None} if redis.__version__ >= "5" else {}
    connections = pool(**said)
    each(1, lambda _: connections.get_connection("PING"))


def pooled(size):
    client = redis.Redis(**where, client_name=name)
    at_once(size, lambda: each(1, lambda _: client.incr("visits")))


def steady():
    """Has ten connections and enough to do for them."""
    pooled(10)


def deployed():
    """Is started again now and then: for each version of it."""
    pooled(8)


def bursty():
    """Has little to do, and a great deal every twenty seconds. Its pool keeps what it has."""
    client = redis.Redis(**where, client_name=name)

    def request():
        with client.client() as connection:
            connection.get("greeting")
            time.sleep(0.03)  # a page is made
            connection.set("greeting", "hello")

    def work(i):
        client.get("greeting")
        if i % 100 < 8:
            at_once(40, request)

    each(0.2, work)


print("begun", flush=True)
globals()[name.replace("-", "_")]()
