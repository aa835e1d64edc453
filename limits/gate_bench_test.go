package limits_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// What a storm costs: whoever is refused is to be cheap, whatever else is going on.

func BenchmarkGateRefused(b *testing.B) {
	for _, total := range []string{"", "total overflow queue queue-size 10000 queue-timeout 1h"} {
		b.Run(total, func(b *testing.B) {
			g := limits.NewGate(1000, time.Minute)
			for _, text := range []string{
				"addr 10.0.0.0/8 each maxclients 5000", "name worker:* maxclients 3", "user app maxclients 5000",
				"addr each new-connections-per-second 1000", "process each maxclients 5000", total,
			} {
				if text != "" {
					r, err := limits.ParseRule(text)
					if err != nil {
						b.Fatal(err)
					}
					g.SetRule(r, noon)
				}
			}
			ids := func(i int) *limits.Identities {
				return &limits.Identities{
					limits.ByAddr: fmt.Sprintf("10.0.%d.%d", i>>8&255, i&255), limits.ByUser: "app", limits.ByListener: "127.0.0.1:6379",
				}
			}
			for i := range 12000 {
				g.Admit(ids(i%2000), nobody{}, noon)
			}
			storm := ids(70000)
			b.ReportAllocs()
			for b.Loop() {
				g.Admit(storm, nobody{}, noon).Leave(noon)
			}
		})
	}
}

func BenchmarkGateTickWhileThousandsWait(b *testing.B) {
	for _, places := range []int{1, 10000} {
		b.Run(fmt.Sprint(places), func(b *testing.B) {
			g := limits.NewGate(1, time.Minute)
			r, _ := limits.ParseRule("total overflow queue queue-size 20000 queue-timeout 1h")
			g.SetRule(r, noon)
			for i := range 10000 {
				knock(g, fmt.Sprint("10.0.0.", i%places), noon)
			}
			for b.Loop() {
				g.Tick(noon)
			}
		})
	}
}

func BenchmarkEvictionChoose(b *testing.B) {
	g := limits.NewGate(10000, time.Minute)
	r, _ := limits.ParseRule("total overflow evict-idle")
	g.SetRule(r, noon)
	var candidates []limits.Candidate
	for i := range 10000 {
		t := knock(g, fmt.Sprint("10.0.0.", i%100), noon)
		candidates = append(candidates, limits.Candidate{Ticket: t, Idle: time.Duration(i*7919%10007) * time.Second, Evictable: true})
	}
	for range 256 {
		knock(g, "192.0.2.1", noon)
	}
	e := g.Evictions()[0]
	b.ResetTimer()
	for b.Loop() {
		if len(e.Choose(candidates)) != 256 {
			b.Fatal("not enough")
		}
	}
}

func BenchmarkGateRulesWithTenThousandValues(b *testing.B) {
	g := limits.NewGate(20000, time.Minute)
	r, _ := limits.ParseRule("addr each maxclients 5")
	g.SetRule(r, noon)
	for i := range 10000 {
		knock(g, fmt.Sprint("10.0.0.", i), noon)
	}
	for b.Loop() {
		g.Rules()
	}
}
