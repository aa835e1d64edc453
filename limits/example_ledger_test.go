package limits_test

import (
	"fmt"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// A worker opens a connection for each job, and forgets to close it.
func ExampleLedger() {
	var rules limits.SuspectRules // the defaults
	if err := limits.ParseSuspectRule("again every 10m", &rules); err != nil {
		fmt.Println(err)
	}
	l := limits.NewLedger(rules)
	worker := &limits.Identities{limits.ByPID: "4242", limits.ByProcess: "worker", limits.ByLib: "redis-py/6.4.0"}

	now := time.Date(2026, time.January, 1, 12, 0, 0, 0, time.UTC)
	var clients []limits.ClientFacts
	for second := 1; second <= 60; second++ {
		now = now.Add(time.Second)
		for i := range clients {
			clients[i].Age += time.Second
			clients[i].Idle += time.Second
		}
		l.Opened(worker, now)
		clients = append(clients, limits.ClientFacts{Identities: worker, Commands: 4, Last: "hgetall"})

		if second%5 != 0 {
			continue
		}
		for _, n := range l.Observe(now, clients) {
			fmt.Printf("after %d s: %s is %s, rule %s\n", second, n.Source, n.What, n.Rule)
			fmt.Println(n.Reason)
			fmt.Println(n.Identities[limits.ByLib], "last sent", n.Report.Last)
		}
	}
	// Output:
	// after 40 s: worker[4242] is named, rule growing
	// open connections rose from 10 to 40 in 30s, and 30 of them are not used
	// redis-py/6.4.0 last sent hgetall
}
