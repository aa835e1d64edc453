"""What operators do with redis-py, through the address given, in front of a Redis with its own clients."""

import sys
import threading
import time

import redis

host, _, port = sys.argv[1].rpartition(":")


def connect(**options):
    options.setdefault("socket_timeout", 20)
    r = redis.Redis(host=host, port=int(port), decode_responses=True, single_connection_client=True, **options)
    r.ping()
    return r


def check(got, want, what):
    if got != want:
        print(f"FAIL {what}: got {str(got)[:400]!r}, want {str(want)[:400]!r}")
        sys.exit(1)
    print(f"ok   {what}")


def eventually(question, want, what):
    end = time.time() + 10
    while (got := question()) != want and time.time() < end:
        time.sleep(0.05)
    check(got, want, what)


admin = connect()
admin.client_setname("admin")
web = [connect(client_name=f"web-{i % 2}") for i in range(6)]
idle = [connect(client_name="idle") for _ in range(3)]


def by(field):
    counts = {}
    for c in admin.client_list():
        key = c[field].rsplit(":", 1)[0] if field == "addr" else c[field]
        counts[key] = counts.get(key, 0) + 1
    return counts


check(by("addr"), {"127.0.0.1": 10}, "clients by address")
check(by("name"), {"admin": 1, "web-0": 3, "web-1": 3, "idle": 3}, "clients by name")
check(admin.info("clients")["connected_clients"], 10, "connected_clients")
check(admin.info()["redbouncer_version"] != "", True, "the section Proxy")
check(admin.info("proxy")["pool_size"] > 0, True, "INFO proxy")

# Who has been idle for two seconds? Close them, by id and by address.
end = time.time() + 2.3
while time.time() < end:
    for r in web:
        r.get("k")
    time.sleep(0.2)
sleepers = [c for c in admin.client_list() if int(c["idle"]) >= 2]
check(sorted(c["name"] for c in sleepers), ["idle"] * 3, "the idle ones")
check(admin.client_kill_filter(_id=sleepers[0]["id"]), 1, "CLIENT KILL ID")
check(admin.client_kill_filter(addr=sleepers[1]["addr"]), 1, "CLIENT KILL ADDR")
check(admin.client_kill(sleepers[2]["addr"]), True, "CLIENT KILL addr")
eventually(lambda: by("name"), {"admin": 1, "web-0": 3, "web-1": 3}, "they have gone")
for r in web:
    check(r.ping(), True, "the others have not noticed")
try:
    admin.client_kill("127.0.0.1:1")
    check("no error", "an error", "CLIENT KILL of nobody")
except redis.ResponseError as e:
    check(str(e), "No such client", "CLIENT KILL of nobody")

# A blocked client is seen, and let go.
worker = connect(client_name="worker")
got = []
thread = threading.Thread(target=lambda: got.append(worker.blpop("queue", 0)))
thread.start()
eventually(lambda: admin.info("clients")["blocked_clients"], 1, "blocked_clients")
[blocked] = [c for c in admin.client_list() if "b" in c["flags"]]
check((blocked["name"], blocked["cmd"]), ("worker", "blpop"), "who is blocked")
check(admin.client_unblock(blocked["id"]), True, "CLIENT UNBLOCK")
thread.join(10)
check(got, [None], "its reply")

# Subscribers are told apart.
sub = redis.Redis(host=host, port=int(port)).pubsub()
sub.subscribe("news")
eventually(lambda: len(admin.client_list(_type="pubsub")), 1, "CLIENT LIST TYPE pubsub")

# Watch connected_clients against maxclients, and alarm at 80 %.
def alarm():
    info = admin.info("clients")
    return info["connected_clients"] >= 0.8 * info["maxclients"]


check(admin.config_set("maxclients", 20), True, "CONFIG SET maxclients 20")
check(alarm(), False, f"no alarm with {admin.info('clients')['connected_clients']} of 20")
more = [connect() for _ in range(8)]
check(alarm(), True, f"an alarm with {admin.info('clients')['connected_clients']} of 20")
refused = 0
for _ in range(8):
    try:
        more.append(connect())
    except redis.ConnectionError:
        refused += 1
    except redis.ResponseError as e:
        check(str(e), "max number of clients reached", "who comes too late")
        refused += 1
check(admin.info("stats")["rejected_connections"], refused, "rejected_connections")
check(refused > 0, True, "some were refused")
check(admin.config_set("maxclients", 12000), True, "CONFIG SET maxclients 12000")
check(admin.config_get("maxclients"), {"maxclients": "12000"}, "CONFIG GET maxclients")
more += [connect() for _ in range(8)]
check(alarm(), False, "no alarm any more")
check(admin.config_set("timeout", 300), True, "CONFIG SET timeout 300")
check(admin.config_get("timeout"), {"timeout": "300"}, "CONFIG GET timeout")
with admin.pipeline(transaction=True) as p:
    clients, info = p.client_list().info("clients").execute()
check(len(clients), info["connected_clients"], "CLIENT LIST and INFO in a transaction")
