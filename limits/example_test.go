package limits_test

import (
	"fmt"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// Whoever needs a connection asks for it, and is told when it is his turn.
func ExampleBudget() {
	b := limits.NewBudget(2, 1, func() { fmt.Println("somebody waits: who can spare a connection?") })

	b.Acquire(limits.Lane, nil) // granted at once
	b.Acquire(limits.Lane, nil)
	b.Acquire(limits.Pin, func() { fmt.Println("the pin may be opened") })

	// A lane has been closed.
	b.Release(limits.Lane)
	fmt.Println("lanes:", b.Open(limits.Lane), "pins:", b.Open(limits.Pin))
	// Output:
	// somebody waits: who can spare a connection?
	// the pin may be opened
	// lanes: 1 pins: 1
}

// Whoever does not want to wait any longer cancels, and learns whether the grant came first.
func ExampleRequest() {
	b := limits.NewBudget(1, 1, nil)
	b.Acquire(limits.Lane, nil)
	r := b.Acquire(limits.Pin, func() {})

	if !b.Cancel(r) {
		b.Release(limits.Pin) // it was granted just now
	}
	fmt.Println("waiting:", b.Waiting(limits.Pin))
	// Output: waiting: 0
}

// holder prints what becomes of a client that has to wait.
type holder string

func (h holder) Decided(t *limits.Ticket) {
	fmt.Println(string(h), "may come in:", t.State() == limits.Admitted)
}

// At most two clients, at most one from each address; who is too many waits.
func ExampleGate() {
	now := time.Date(2026, time.January, 1, 12, 0, 0, 0, time.UTC)
	g := limits.NewGate(2, 10*time.Second)
	rule, err := limits.ParseRule("addr each maxclients 1 overflow queue queue-timeout 5s")
	if err != nil {
		panic(err)
	}
	g.SetRule(rule, now)

	first := g.Admit(&limits.Identities{limits.ByAddr: "192.0.2.1"}, holder("first"), now)
	second := g.Admit(&limits.Identities{limits.ByAddr: "192.0.2.1"}, holder("second"), now)
	fmt.Println("second waits:", second.State() == limits.Waiting, "because of", second.Why())
	first.Leave(now)
	second.Leave(now)
	fmt.Printf("%+v\n", g.Stats())
	// Output:
	// second waits: true because of addr each
	// second may come in: true
	// {Max:2 Open:0 Waiting:0 Total:2 Refused:0}
}

// The log gets a line for a source's first refusal, and one for all that followed.
func ExampleGate_Tell() {
	g := limits.NewGate(0, 10*time.Second)
	now := time.Date(2026, time.January, 1, 12, 0, 0, 0, time.UTC)
	full := limits.Refusal{Source: "192.0.2.7", Reason: "full"}
	for range 1000 {
		if g.Tell(full, now) {
			fmt.Println("refused: 192.0.2.7")
		}
	}
	for _, s := range g.Expire(now.Add(10 * time.Second)) {
		fmt.Println("refused as well:", s.Source, s.Count, "times")
	}
	// Output:
	// refused: 192.0.2.7
	// refused as well: 192.0.2.7 999 times
}
