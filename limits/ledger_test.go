package limits_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// The ledger's counts are exact, whoever comes, goes and changes his name, and however many values there are: when all
// have gone, everything reads zero. What it remembers is bounded.

// reportOf returns the report of a value of a kind.
func reportOf(t *testing.T, reports []limits.SourceReport, value string) limits.SourceReport {
	t.Helper()
	for _, r := range reports {
		if r.Value == value {
			return r
		}
	}
	t.Fatalf("%q is not in the ledger", value)
	return limits.SourceReport{}
}

func TestAClientIsCountedUnderEachOfItsIdentities(t *testing.T) {
	l := limits.NewLedger(limits.SuspectRules{})
	l.Opened(processOf(7, "app"), noon)
	l.Opened(processOf(8, "app"), noon)
	l.Opened(podOf(1), noon)
	l.Closed(processOf(8, "app"), limits.Usage{Commands: 6, Age: time.Second}, noon)
	l.Refused(podOf(1), noon)
	for _, is := range []struct {
		reports                      []limits.SourceReport
		value                        string
		open, opens, closes, refused int
	}{
		{l.Sources(limits.ByAddr), "127.0.0.1", 1, 2, 1, 0},
		{l.Sources(limits.ByAddr), "10.0.0.1", 1, 1, 0, 1},
		{l.Sources(limits.ByUser), "default", 2, 3, 1, 1},
		{l.Sources(limits.ByPID), "8", 0, 1, 1, 0},
		{l.Sources(limits.ByName), "app", 1, 2, 1, 0},
		{l.BySource(), "python3[7] app", 1, 1, 0, 0},
		{l.BySource(), "10.0.0.1", 1, 1, 0, 1},
	} {
		r := reportOf(t, is.reports, is.value)
		if r.Open != is.open || r.Opens != is.opens || r.Closes != is.closes || int(r.Refused) != is.refused {
			t.Errorf("%s: %d open, %d opens, %d closes, %d refused, want %+v", is.value, r.Open, r.Opens, r.Closes, r.Refused, is)
		}
	}
	if got := l.Sources(limits.ByContainer); len(got) != 0 {
		t.Errorf("what is not known is counted: %+v", got)
	}
	if got := l.Sources(limits.ByUser)[0].CommandsPerConnection; got != 6 {
		t.Errorf("%v commands a connection, want 6", got)
	}
}

func TestAMoveIsAnOpenOfTheNewValueAndNothingOfTheOld(t *testing.T) {
	l := limits.NewLedger(limits.SuspectRules{})
	before, after := *processOf(7, ""), *processOf(7, "app")
	l.Opened(&before, noon)
	l.Changed(&before, &after, noon)
	for value, want := range map[string][3]int{"python3[7]": {0, 0, 0}, "python3[7] app": {1, 1, 0}} {
		r := reportOf(t, l.BySource(), value)
		if got := [3]int{r.Open, r.Opens, r.Closes}; got != want {
			t.Errorf("%s: open, opens, closes are %v, want %v", value, got, want)
		}
	}
	if r := reportOf(t, l.Sources(limits.ByPID), "7"); r.Opens != 1 {
		t.Errorf("what has not changed was opened %d times", r.Opens)
	}
	l.Closed(&after, limits.Usage{}, noon)
	mustBeUnused(t, l)
}

func TestALookSaysWhatTheConnectionsDo(t *testing.T) {
	l := limits.NewLedger(limits.SuspectRules{})
	ids := processOf(7, "app")
	ids[limits.ByContainer] = "web-1"
	for range 5 {
		l.Opened(ids, noon)
	}
	client := func(remote string, age, idle time.Duration, commands uint64) limits.ClientFacts {
		return limits.ClientFacts{Identities: ids, Remote: remote, Command: "python3 app.py", Age: age, Idle: idle,
			Commands: commands, Last: "get"}
	}
	facts := []limits.ClientFacts{
		client("a", 30*time.Second, time.Second, 50),
		client("b", 48*time.Hour, 400*time.Second, 10), // idle
		client("c", 2*time.Hour, 500*time.Second, 20),  // blocked
		client("d", 20*time.Minute, 600*time.Second, 5),
		client("e", 2*time.Minute, 2*time.Minute, 0),
	}
	facts[2].InUse, facts[2].Last = true, "blpop"
	facts[3].Subscribed = true
	l.Observe(after(5), facts)
	facts[0].Commands += 120
	l.Observe(after(10), facts)

	want := limits.SourceReport{
		Value: "python3[7] app", Open: 5, InUse: 1, Idle: 1, NeverSpoke: 1, Subscribed: 1, Ages: [5]int{1, 1, 1, 1, 1},
		Opens: 5, Slope: 30, CommandsPerMinute: 720, PeakInUse: 1, Identities: *ids, Command: "python3 app.py", Last: "get",
		Oldest: []limits.Connection{
			{Remote: "b", Age: 48 * time.Hour, Idle: 400 * time.Second},
			{Remote: "c", Age: 2 * time.Hour, Idle: 500 * time.Second},
			{Remote: "d", Age: 20 * time.Minute, Idle: 600 * time.Second},
		},
		History: []int{5, 5},
	}
	if got := reportOf(t, l.BySource(), want.Value); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	want.Value, want.History = "web-1", nil
	if got := reportOf(t, l.Sources(limits.ByContainer), want.Value); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}

	l.Observe(after(15), nil) // all are about to be closed
	if r := reportOf(t, l.BySource(), "python3[7] app"); r.InUse != 0 || r.Oldest != nil || r.Last != "get" {
		t.Errorf("when nobody is seen, the report is %+v", r)
	}
}

func TestEveryClientIsSeenWhereItWasCounted(t *testing.T) {
	l := limits.NewLedger(limits.SuspectRules{})
	var facts []limits.ClientFacts
	for known := range 1 << limits.IdentityKinds {
		ids := &limits.Identities{}
		for k := range limits.IdentityKinds {
			if known>>k&1 == 1 {
				ids[k] = k.String() + strings.Repeat("x", 100) // more than a buffer holds
			}
		}
		l.Opened(ids, noon)
		// One that has said nothing may be seen with those that have said their name.
		facts = append(facts, limits.ClientFacts{Identities: ids, InUse: true, Commands: 1})
	}
	l.Observe(after(5), facts)
	reports := l.BySource()
	for k := range limits.IdentityKinds {
		reports = append(reports, l.Sources(k)...)
	}
	for _, r := range reports {
		if r.InUse != r.Open || r.Open == 0 {
			t.Errorf("%s: %d are open and %d were seen", r.Value, r.Open, r.InUse)
		}
	}
}

func TestWhatTheLedgerRemembersIsBounded(t *testing.T) {
	const most = 4096 + 1 // and the others
	l := limits.NewLedger(limits.SuspectRules{})
	rnd := rand.New(rand.NewPCG(1, 2))
	var in []*limits.Identities
	for i := range 10_000 {
		ids := processOf(i, "app"+strconv.Itoa(rnd.IntN(10_000)))
		l.Opened(ids, noon)
		in = append(in, ids)
		if len(in) > 6000 {
			j := rnd.IntN(len(in))
			l.Closed(in[j], limits.Usage{}, noon)
			in = append(in[:j], in[j+1:]...)
		}
		if i%1000 == 0 {
			l.Observe(after(i/200), nil)
		}
	}
	open := 0
	reports := l.BySource()
	for _, r := range reports {
		open += r.Open
	}
	if len(reports) > most || open != 6000 {
		t.Errorf("there are %d sources with %d connections, want at most %d with 6000", len(reports), open, most)
	}
	if r := reportOf(t, reports, limits.OtherSources); r.Open < 1000 {
		t.Errorf("the others are %d", r.Open)
	}
	for _, ids := range in {
		l.Closed(ids, limits.Usage{}, noon)
	}
	mustBeUnused(t, l)
	l.Observe(after(60), nil)
	if n := len(l.BySource()); n > most*3/4+1 {
		t.Errorf("%d sources without clients are kept, so that there is no room for new ones", n)
	}
	l.Observe(after(600+60), nil)
	if n := len(l.BySource()); n != 0 {
		t.Errorf("%d sources are remembered for ever", n)
	}
}

func TestTheValuesThatHaveBeenWithoutClientsForLongestAreDroppedFirst(t *testing.T) {
	l := limits.NewLedger(limits.SuspectRules{})
	for i := range 4096 {
		l.Refused(podOf(i), noon.Add(time.Duration(i)*time.Millisecond))
	}
	l.Opened(podOf(0), after(5))
	l.Observe(after(5), nil)
	kept := l.BySource()
	if len(kept) != 4096*3/4 || kept[0].Value != "10.0.0.0" {
		t.Errorf("%d are kept, and first among them %s", len(kept), kept[0].Value)
	}
	reportOf(t, kept, podOf(4095)[limits.ByAddr])
	for _, r := range kept {
		if r.Value == podOf(1)[limits.ByAddr] {
			t.Errorf("%s is kept", r.Value)
		}
	}
}

func TestLeavingTheLedgerWithoutHavingComePanics(t *testing.T) {
	l := limits.NewLedger(limits.SuspectRules{})
	l.Opened(podOf(1), noon)
	mustPanic(t, "bug: a client has left the ledger that never came", func() { l.Closed(podOf(2), limits.Usage{}, noon) })
}

func TestTheLedgerIsExactWhoeverUsesIt(t *testing.T) {
	l := limits.NewLedger(limits.SuspectRules{})
	var users, watchers sync.WaitGroup
	done := make(chan struct{})
	for i := range 4 {
		users.Go(func() {
			for j := range 500 {
				before, after := podOf(j%7), processOf(i, "app"+strconv.Itoa(j%3))
				l.Opened(before, noon)
				l.Refused(before, noon)
				l.Changed(before, after, noon)
				l.Closed(after, limits.Usage{Commands: 1}, noon)
			}
		})
	}
	watchers.Go(func() {
		for second := 5; ; second += 5 {
			select {
			case <-done:
				return
			default:
				l.Observe(after(second), []limits.ClientFacts{{Identities: podOf(1)}, {Identities: processOf(2, "app1")}})
				l.SetRules(limits.SuspectRules{})
			}
		}
	})
	watchers.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				l.BySource()
				l.Suspects()
			}
		}
	})
	users.Wait()
	close(done)
	watchers.Wait()
	l.Opened(podOf(1), noon)
	l.Closed(podOf(1), limits.Usage{}, noon)
	mustBeUnused(t, l)
}

// manyClients opens clients of some hundred sources, as a large proxy has them.
func manyClients(l *limits.Ledger, n int) (facts []limits.ClientFacts) {
	for i := range n {
		ids := podOf(i % 300)
		if i%3 == 0 {
			ids = processOf(i%500, "app"+strconv.Itoa(i%5))
		}
		l.Opened(ids, noon)
		facts = append(facts, limits.ClientFacts{
			ID: int64(i), Identities: ids, Remote: fmt.Sprintf("%s:%d", ids[limits.ByAddr], i), Command: "python3 app.py",
			Age: time.Hour + time.Duration(i*7919%1000)*time.Second, Idle: time.Duration(i*7919%10_000) * time.Millisecond,
			Commands: uint64(i), InUse: i%10 == 0, Last: [...]string{"get", "set", "hgetall"}[i%3],
		})
	}
	return facts
}

func TestALookAtManyClientsAllocatesNextToNothing(t *testing.T) {
	l := limits.NewLedger(limits.SuspectRules{})
	facts := manyClients(l, 2000)
	l.Observe(after(5), facts)
	window := 5
	allocs := testing.AllocsPerRun(20, func() {
		window += 5
		l.Observe(after(window), facts)
	})
	if allocs > 20 {
		t.Errorf("a look at 2000 clients allocates %v times", allocs)
	}
}

func BenchmarkLedgerObserve(b *testing.B) {
	l := limits.NewLedger(limits.SuspectRules{})
	facts := manyClients(l, 10_000)
	b.ReportAllocs()
	window := 0
	for b.Loop() {
		window += 5
		l.Observe(after(window), facts)
	}
}

func BenchmarkLedgerObserveManySources(b *testing.B) {
	l := limits.NewLedger(limits.SuspectRules{})
	var facts []limits.ClientFacts
	for i := range 10_000 {
		ids := processOf(i%4000, "app"+strconv.Itoa(i%4000))
		l.Opened(ids, noon)
		facts = append(facts, limits.ClientFacts{Identities: ids, Age: time.Hour, Idle: time.Second, Commands: uint64(i)})
	}
	b.ReportAllocs()
	window := 0
	for b.Loop() {
		window += 5
		l.Observe(after(window), facts)
	}
}

func BenchmarkLedgerOpenedClosed(b *testing.B) {
	l := limits.NewLedger(limits.SuspectRules{})
	manyClients(l, 10_000)
	ids := processOf(7, "app")
	b.ReportAllocs()
	for b.Loop() {
		l.Opened(ids, noon)
		l.Closed(ids, limits.Usage{Commands: 5, Age: time.Second}, noon)
	}
}
