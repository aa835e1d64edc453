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
	run   func(context.Context, *session) error
	print func(io.Writer, *report)
}

// scenarios run in this order.
var scenarios = []scenario{
	{"table", "throughput and CPU a command, beside the contenders", measureLoads, printLoads},
	{"storm", "what clients that are in notice of many that are refused", measureStorm, printStorms},
	{"fair", "how long a single client waits behind a flood from another address", measureFair, printFair},
	{"idle", "memory of clients that have spoken once and wait", measureIdle, printIdle},
}

// valueSize is the size of the value that every load gets, in bytes.
const valueSize = 64

// load is what redis-benchmark is told to do. Names are referred to by goals.
type load struct {
	Name     string `json:"name"`
	Clients  int    `json:"clients"`
	Pipeline int    `json:"pipeline"`
}

// loads are measured in this order by the scenario table.
var loads = []load{
	{Name: "50 clients", Clients: 50, Pipeline: 1},
	{Name: "1,000 clients", Clients: 1000, Pipeline: 1},
	{Name: "50 clients, pipeline of 16", Clients: 50, Pipeline: 16},
}

// chooseScenarios returns the named scenarios, or all of them if there is no name.
func chooseScenarios(names []string) ([]scenario, error) {
	if len(names) == 0 {
		return scenarios, nil
	}
	var chosen []scenario
	for _, name := range names {
		i := slices.IndexFunc(scenarios, func(sc scenario) bool { return sc.name == name })
		if i < 0 {
			return nil, fmt.Errorf("scenario %q is not known; want some of %s", name, scenarioNames())
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
