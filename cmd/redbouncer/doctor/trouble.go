package doctor

import (
	"fmt"

	"github.com/redis/go-redis/v9"
)

// troubleAdvice is what to do when there is no way in.
func troubleAdvice(t *trouble, o *redis.Options, s *server) []Advice {
	var all []Advice
	if t.advice != "" {
		all = append(all, Advice{Code: "connect", Title: "Have doctor get in", Why: upperFirst(t.advice) + ".", Commands: []string{}})
	}
	if !t.again {
		return all
	}
	_, port := splitAddr(o.Addr)
	return append(all, []Advice{
		{Code: "wait-for-a-place", Title: "Have one known client give up its place, and doctor take it",
			Why: "Stop or scale down one program that you know: a worker, a replica of a deployment. No restart of Redis is needed, and " +
				"none helps for long. CLIENT LIST and CONFIG SET cannot be had without a connection, also on the host of Redis.",
			Commands: []string{"redbouncer doctor --for 5m " + plainURL(s)}},
		{Code: "count-by-address", Title: "See who holds the places, on the host of Redis and without a connection",
			Why: "The kernel knows. The unix socket has no places of its own.",
			Commands: []string{
				fmt.Sprintf("ss -Htn state established '( sport = :%s )' | awk '{print $4}' | sed 's/:[0-9]*$//' | sort | uniq -c | sort -rn | head", port),
				fmt.Sprintf("sudo ss -K dst ADDRESS sport = :%s   # cuts off all connections of the worst", port),
				"grep 'open files' /proc/$(pidof redis-server)/limits",
			}},
		{Code: "raise-maxclients", Title: "Then raise maxclients, as soon as one connection is to be had",
			Why:      "It takes effect at once. If this is a redbouncer, its console has places of its own: redis-cli -p 6390 PROXY SHOW SOURCES.",
			Commands: []string{"redis-cli -p " + port + " CONFIG SET maxclients 20000"}},
	}...)
}
