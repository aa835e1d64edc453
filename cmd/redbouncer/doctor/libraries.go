package doctor

import (
	"strings"

	"github.com/redbouncer/redbouncer/limits"
)

// libraryHint names the setting or the call, in the library that the source says it uses.
func libraryHint(lib string, rule limits.LeakRule) string {
	name, _, _ := strings.Cut(lib, "/")
	name, _, _ = strings.Cut(name, "(") // redis-py(celery_v5) and the like
	for _, row := range libraryHints {
		if strings.EqualFold(row.lib, name) {
			if hint := row.hints[rule]; hint != "" {
				return " In " + row.lib + ": " + hint + "."
			}
		}
	}
	return ""
}

type libraryRow struct {
	lib   string
	hints map[limits.LeakRule]string
}

// libraryHints are keyed by what CLIENT SETINFO LIB-NAME says.
var libraryHints = []libraryRow{
	{"go-redis", map[limits.LeakRule]string{
		limits.NeverSpoke: "lower MinIdleConns", limits.PoolTooLarge: "lower PoolSize and MinIdleConns",
		limits.Churn:     "one redis.NewClient for the program",
		limits.Growing:   "Close what Conn(), Subscribe() and NewClient() return, with defer",
		limits.IdleHoard: "set ConnMaxIdleTime and MaxIdleConns",
	}},
	{"redis-py", map[limits.LeakRule]string{
		limits.Churn: "one redis.Redis for the program", limits.PoolTooLarge: "lower max_connections of the ConnectionPool",
		limits.Growing:   "close() what pubsub(), client() and Redis() return, or use with; one ConnectionPool for all",
		limits.IdleHoard: "one ConnectionPool for the process; its connections are not closed by themselves",
	}},
	{"jedis", map[limits.LeakRule]string{
		limits.NeverSpoke: "lower minIdle", limits.PoolTooLarge: "lower maxTotal and maxIdle",
		limits.Churn: "one JedisPool for the program", limits.Growing: "try (Jedis j = pool.getResource()) { ... } gives it back",
		limits.IdleHoard: "set minEvictableIdleDuration and timeBetweenEvictionRuns",
	}},
	{"lettuce", map[limits.LeakRule]string{
		limits.Churn: "one RedisClient and one StatefulRedisConnection for the program", limits.Growing: "close() what connect() and connectPubSub() return",
	}},
	{"ioredis", map[limits.LeakRule]string{
		limits.Churn: "one new Redis() for the process, made outside of the handler", limits.Growing: "quit() what new Redis() and duplicate() return",
	}},
	{"node-redis", map[limits.LeakRule]string{
		limits.Churn: "one createClient() for the process, made outside of the handler", limits.Growing: "close() what createClient() and duplicate() return",
	}},
	{"SE.Redis", map[limits.LeakRule]string{
		limits.Churn: "one ConnectionMultiplexer for the program", limits.Growing: "one ConnectionMultiplexer for the program, not one a request",
	}},
}
