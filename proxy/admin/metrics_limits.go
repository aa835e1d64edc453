package admin

import (
	"cmp"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/proxy"
)

// collectRules tells how the rules stand. Counters are a rule's, not a group's: groups come and go, and a counter must
// not run backwards.
func collectRules(out chan<- prometheus.Metric, rules []limits.RuleReport) {
	seen := map[string]bool{}
	for _, rule := range rules {
		head := label(rule.Head)
		if seen[head] {
			continue // two heads with one label: the first one counts
		}
		seen[head] = true
		sum := rule.Past
		for _, g := range rule.Groups {
			sum.Refused += g.Refused
			sum.Queued += g.Queued
			sum.Evicted += g.Evicted
			sum.WouldRefuse += g.WouldRefuse
		}
		counter(out, descRefused, sum.Refused, head)
		counter(out, descQueued, sum.Queued, head)
		counter(out, descEvicted, sum.Evicted, head)
		counter(out, descWould, sum.WouldRefuse, head)
		collectGroups(out, head, rule.Groups)
	}
}

// collectGroups tells of the groups of a rule. Those that share a series have no limit of their own to show.
func collectGroups(out chan<- prometheus.Metric, rule string, groups []limits.GroupReport) {
	groups = slices.Clone(groups)
	slices.SortStableFunc(groups, func(a, b limits.GroupReport) int {
		return cmp.Or(cmp.Compare(b.Open, a.Open), cmp.Compare(a.Value, b.Value))
	})
	byLabel := map[string]limits.GroupReport{}
	for i, g := range groups {
		name := label(g.Value)
		if i >= topSources {
			name, g.Max = limits.OtherSources, 0
		}
		sum := byLabel[name]
		sum.Open += g.Open
		sum.Waiting += g.Waiting
		sum.Max = max(sum.Max, g.Max)
		byLabel[name] = sum
	}
	for name, g := range byLabel {
		gauge(out, descGroupOpen, g.Open, rule, name)
		gauge(out, descGroupWaiting, g.Waiting, rule, name)
		if g.Max > 0 {
			gauge(out, descGroupMax, g.Max, rule, name)
		}
	}
}

func collectQueue(out chan<- prometheus.Metric, queue []proxy.WaiterReport) {
	bytes, oldest := 0, 0.0
	for _, w := range queue {
		bytes += w.Bytes
		oldest = max(oldest, w.Waited.Seconds())
	}
	gauge(out, descQueue, len(queue))
	gauge(out, descQueueBytes, bytes)
	gauge(out, descQueueOldest, oldest)
}
