package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
)

// scenario is one kind of measurement. It adds to the session's report; print shows what it added.
type scenario struct {
	name  string
	about string
	// heavy: it runs only if it is named.
	heavy bool
	// local: it needs servers of its own, so that it cannot run against --target.
	local bool
	// fewer divides --rounds, for what is slow and steady. 0: does not.
	fewer int
	// loads are what a scenario of loads does, and drive makes what does it.
	loads []load
	drive func(*session, job) driver
	run   func(context.Context, *session, scenario) error
	print func(io.Writer, *report, scenario)
	// plan says what it sends. Empty: its loads say that.
	plan func(*session) string
}

// load is what clients do. Names are referred to by goals.
type load struct {
	Name     string `json:"name"`
	Clients  int    `json:"clients"`
	Pipeline int    `json:"pipeline,omitempty"` // commands in one write; 0: as written in Writes
	Value    int    `json:"value_bytes,omitempty"`
	// Writes are the commands of each write, in turn; "key" and "value" stand for ours.
	Writes [][]string `json:"writes,omitempty"`
	// Share is the rate, in percent of what the clients reach directly. 0: as fast as answers come.
	Share int `json:"share_of_direct_peak,omitempty"`
	// Rate is a fixed rate, in commands a second.
	Rate float64 `json:"commands_per_second,omitempty"`
	// Unit is what is counted. Empty: commands.
	Unit string `json:"unit,omitempty"`
	// Needs is what a contender may lack.
	Needs ability `json:"needs,omitempty"`
	// WithLimits: redbouncer+limits takes part.
	WithLimits bool `json:"-"`
	// Slow is how many slow readers there are beside the clients.
	Slow int `json:"slow_readers,omitempty"`
}

func (l load) unit() string {
	if l.Unit == "" {
		return "command"
	}
	return l.Unit
}

// units is the unit in the plural.
func (l load) units() string {
	if stem, found := strings.CutSuffix(l.unit(), "y"); found {
		return stem + "ies"
	}
	return l.unit() + "s"
}

var (
	get       = [][]string{{"GET key"}}
	set       = [][]string{{"SET key value"}}
	readMost  = repeated(9, get, set) // nine reads and a write
	halfHalf  = repeated(1, get, set)
	atOnce    = [][]string{{"MULTI", "SET key value", "GET key", "EXEC"}}
	watching  = [][]string{{"WATCH other"}, {"GET other"}, {"MULTI", "SET key value", "EXEC"}}
	megabytes = 1 << 20
)

// repeated is n times one and then the other.
func repeated(n int, one, other [][]string) (all [][]string) {
	for range n {
		all = append(all, one...)
	}
	return append(all, other...)
}

// throughputLoads are clients x pipeline x value size x read/write mix. Not every combination: each row differs from the
// first in one thing.
var throughputLoads = []load{
	{Name: "50 clients", Clients: 50, Pipeline: 1, Value: 64, Writes: get, WithLimits: true},
	{Name: "1,000 clients", Clients: 1000, Pipeline: 1, Value: 64, Writes: get, WithLimits: true},
	{Name: "8,000 clients", Clients: 8000, Pipeline: 1, Value: 64, Writes: get},
	{Name: "50 clients, pipeline of 16", Clients: 50, Pipeline: 16, Value: 64, Writes: get, WithLimits: true},
	{Name: "50 clients, 9 GET : 1 SET", Clients: 50, Pipeline: 1, Value: 64, Writes: readMost},
	{Name: "50 clients, 1 GET : 1 SET of 4 KB", Clients: 50, Pipeline: 1, Value: 4096, Writes: halfHalf},
}

var latencyLoads = []load{
	{Name: "25 % of peak", Clients: 50, Pipeline: 1, Value: 64, Writes: get, Share: 25},
	{Name: "50 % of peak", Clients: 50, Pipeline: 1, Value: 64, Writes: get, Share: 50},
	{Name: "75 % of peak", Clients: 50, Pipeline: 1, Value: 64, Writes: get, Share: 75},
}

var transactionLoads = []load{
	{Name: "MULTI to EXEC in one write, 50 clients", Clients: 50, Value: 64, Writes: atOnce, Unit: "transaction", Needs: transactions},
	{Name: "WATCH, GET, then MULTI to EXEC, 50 clients", Clients: 50, Value: 64, Writes: watching, Unit: "transaction", Needs: transactions},
}

var largeLoads = []load{
	{Name: "GET of 1 MB", Clients: 2, Pipeline: 1, Value: 1 * megabytes, Writes: get},
	{Name: "GET of 8 MB", Clients: 1, Pipeline: 1, Value: 8 * megabytes, Writes: get},
	{Name: "GET of 64 MB", Clients: 1, Pipeline: 1, Value: 64 * megabytes, Writes: get},
	{Name: "SET of 64 MB", Clients: 1, Pipeline: 1, Value: 64 * megabytes, Writes: set},
}

var slowLoads = []load{
	{Name: "no slow reader", Clients: 50, Pipeline: 1, Value: 64, Writes: get, Rate: 5000},
	{Name: "10 slow readers", Clients: 50, Pipeline: 1, Value: 64, Writes: get, Rate: 5000, Slow: 10},
}

// scenarios run in this order.
var scenarios = []scenario{
	{name: "throughput", about: "commands a second and CPU a command: clients x pipeline x value size x mix",
		loads: throughputLoads, drive: newClient, run: measureLoads, print: printLoads},
	{name: "latency", about: "how long answers take at a fixed rate, 25, 50 and 75 % of the direct peak",
		loads: latencyLoads, drive: newClient, run: measureLoads, print: printLoads},
	{name: "connect", about: "connects and first replies a second: everybody comes back at once", fewer: 2,
		loads: []load{{Name: "2,000 clients come", Clients: 2000, Unit: "connection"}},
		drive: newWaveDriver, run: measureLoads, print: printLoads},
	{name: "churn", about: "a connection for each command", fewer: 2,
		loads: []load{{Name: "50 clients, a connection a command", Clients: 50, Pipeline: 1, Value: 64, Writes: get}},
		drive: newChurnDriver, run: measureLoads, print: printLoads},
	{name: "transactions", about: "MULTI to EXEC in one write, and WATCH in turns", fewer: 2,
		loads: transactionLoads, drive: newClient, run: measureLoads, print: printLoads},
	{name: "blocking", about: "how soon what is pushed reaches who waits in BLPOP", fewer: 2,
		loads: []load{{Name: "10 clients in BLPOP", Clients: 10, Value: 64, Unit: "hand-over", Needs: blocking}},
		drive: newBlockingDriver, run: measureLoads, print: printLoads},
	{name: "pubsub", about: "how soon a message reaches all of its subscribers", fewer: 2,
		loads: []load{{Name: "1,000 subscribers of a channel", Clients: 1000, Value: 64, Unit: "delivery", Needs: pubsub}},
		drive: newFanDriver, run: measureLoads, print: printLoads},
	{name: "large", about: "values of 1 to 64 MB: throughput and memory", fewer: 2,
		loads: largeLoads, drive: newClient, run: measureLoads, print: printLoads},
	{name: "slow-reader", about: "what others notice of clients that do not read", fewer: 2,
		loads: slowLoads, drive: newSlowDriver, run: measureLoads, print: printLoads},
	{name: "upstreams", about: "connections to Redis while clients become more", local: true,
		run: measureUpstreams, print: printUpstreams, plan: planUpstreams},
	{name: "storm", about: "what clients that are in notice of many that are refused", local: true,
		run: measureStorm, print: printStorms, plan: planStorm},
	{name: "fair", about: "how long a single client waits behind a flood from another address", local: true,
		run: measureFair, print: printFair, plan: planFair},
	{name: "idle", about: "memory and CPU of clients that have spoken once and wait", local: true,
		run: measureIdle, print: printIdle, plan: planIdle},
	{name: "start", about: "from the start to the first served command, and allocations a command", local: true,
		run: measureStart, print: printStart, plan: planStart},
	{name: "leak", about: "how soon leakers beside healthy clients are named", heavy: true, local: true,
		run: measureLeak, print: printLeak, plan: planLeak},
	{name: "soak", about: "whether memory and latency drift, at half of the peak", heavy: true, local: true,
		run: measureSoak, print: printSoak, plan: planSoak},
}

// chooseScenarios returns the named scenarios, or all that are not heavy if there is no name. Against a --target, those
// that need servers of their own are left out.
func (set settings) chooseScenarios() ([]scenario, error) {
	remote := set.target != ""
	var chosen []scenario
	if len(set.scenarios) == 0 {
		for _, sc := range scenarios {
			if !sc.heavy && !(remote && sc.local) {
				chosen = append(chosen, sc)
			}
		}
		return chosen, nil
	}
	for _, name := range set.scenarios {
		i := slices.IndexFunc(scenarios, func(sc scenario) bool { return sc.name == name })
		if i < 0 {
			return nil, fmt.Errorf("scenario %q is not known; want some of %s", name, scenarioNames())
		}
		if remote && scenarios[i].local {
			return nil, fmt.Errorf("scenario %s needs servers of its own; it cannot run against --target", name)
		}
		chosen = append(chosen, scenarios[i])
	}
	return chosen, nil
}

func scenarioNames() string {
	var names []string
	for _, sc := range scenarios {
		names = append(names, sc.name)
	}
	return strings.Join(names, ", ")
}
