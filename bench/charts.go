package main

import (
	"fmt"
	"time"
)

// The charts of the page, each made from what was measured. Without figures there is no chart.

func (r *report) Charts() []chart {
	all := []chart{r.clientsChart(), r.loadsChart(), r.cpuChart(), r.pipelineChart()}
	for _, l := range latencyLoads {
		all = append(all, r.latencyChart(l.Name))
	}
	all = append(all, r.upstreamsChart(), r.idleChart(), r.stormChart(), r.otherChart(), r.largeChart())
	var drawn []chart
	for _, c := range all {
		if len(c.Series) > 0 {
			drawn = append(drawn, c)
		}
	}
	return drawn
}

// Legend is the series that some chart has, in the order of the contenders.
func (r *report) Legend() (all []series) {
	for _, c := range contenders {
		all = append(all, series{Name: c.name})
	}
	return all
}

// add adds a point to the series of that name.
func (c *chart) add(name string, p point) {
	for i := range c.Series {
		if c.Series[i].Name == name {
			c.Series[i].Points = append(c.Series[i].Points, p)
			return
		}
	}
	c.Series = append(c.Series, series{name, []point{p}})
}

// addLoad adds a figure of every target of a load.
func (c *chart) addLoad(r loadResult, category string, m metric) {
	x := len(c.Categories)
	c.Categories = append(c.Categories, category)
	for _, t := range r.Targets {
		if got, err := spreadOf(r.figures(m, t.Name)); err == nil && got.Max > 0 {
			c.add(t.Name, point{x: x, value: got.Median, low: got.Min, high: got.Max})
		}
	}
}

func (r *report) clientsChart() chart {
	c := chart{Title: "Throughput against clients", Y: "GET/s", X: "clients, each with one command at a time",
		Note: "Medians; the thin lines are the ranges of the rounds. More is better."}
	for _, l := range throughputLoads[:3] {
		if got, err := r.load(l.Name); err == nil {
			c.addLoad(got, thousands(float64(l.Clients)), throughput)
		}
	}
	return c
}

// loadsChart is of the loads that are not one command at a time.
func (r *report) loadsChart() chart {
	c := chart{Title: "Throughput of other loads, of direct", Y: "times what is reached directly", X: "50 clients", Bars: true,
		Note: "Divided by that of direct in the same round. More is better; 1 is as without a proxy."}
	for i, name := range []string{"pipeline of 16", "9 GET : 1 SET", "1 GET : 1 SET of 4 KB"} {
		if got, err := r.load(throughputLoads[3+i].Name); err == nil {
			c.addRatios(got, name)
		}
	}
	return c
}

func (r *report) cpuChart() chart {
	c := chart{Title: "CPU a command", X: "clients, each with one command at a time"}
	return r.withCPU(c, throughputLoads[:3], []string{"50", "1,000", "8,000"})
}

// pipelineChart is a chart of its own, as a command costs a tenth there.
func (r *report) pipelineChart() chart {
	c := chart{Title: "CPU a command in a pipeline", X: "clients"}
	return r.withCPU(c, throughputLoads[3:4], []string{"50, pipeline of 16"})
}

func (r *report) withCPU(c chart, loads []load, names []string) chart {
	c.Bars, c.Y = true, "us"
	c.Note = "Full colour: the proxy. Above it, pale: Redis behind it. Less is better."
	for i, l := range loads {
		got, err := r.load(l.Name)
		if err != nil {
			continue
		}
		x := len(c.Categories)
		c.Categories = append(c.Categories, names[i])
		for _, t := range got.Targets {
			proxy, _ := spreadOf(got.figures(proxyCPU, t.Name)) // zero for direct
			redis, err := spreadOf(got.figures(redisCPU, t.Name))
			if err == nil && redis.Max > 0 {
				c.add(t.Name, point{x: x, value: proxy.Median, upper: redis.Median})
			}
		}
	}
	return c
}

func (r *report) latencyChart(load string) chart {
	got, err := r.load(load)
	if err != nil {
		return chart{}
	}
	c := chart{Title: "Latency at " + load, Y: "us", X: "percentile", Log: true,
		Note: fmt.Sprintf("%s GET/s by 50 clients, counted from when each was due. Medians of the rounds, on a logarithmic scale. Less is better.",
			thousands(got.Rate))}
	for _, p := range []struct {
		name string
		of   func(latencies) time.Duration
	}{
		{"50", func(l latencies) time.Duration { return l.P50 }}, {"75", func(l latencies) time.Duration { return l.P75 }},
		{"90", func(l latencies) time.Duration { return l.P90 }}, {"95", func(l latencies) time.Duration { return l.P95 }},
		{"99", func(l latencies) time.Duration { return l.P99 }}, {"99.9", func(l latencies) time.Duration { return l.P999 }},
	} {
		c.addLoad(got, p.name, func(s sample) float64 { return asUS(p.of(s.Latency)) })
	}
	for i := range c.Series {
		for j := range c.Series[i].Points { // six percentiles of five targets leave no room for ranges; the table has them
			c.Series[i].Points[j].low, c.Series[i].Points[j].high = 0, 0
		}
	}
	return c
}

func (r *report) upstreamsChart() chart {
	c := chart{Title: "Upstream connections over time", Y: "connections to Redis", X: "seconds", Log: true, Timed: true,
		Note: "50, 200, 500, 1,000, then 2,000 clients, who all go at the end. On a logarithmic scale. Less is better."}
	for _, x := range r.Upstreams {
		for _, p := range x.Points {
			c.add(x.Name, point{at: p.At.Seconds(), value: float64(p.Upstreams)})
		}
	}
	return c
}

func (r *report) idleChart() chart {
	c := chart{Title: "Memory against idle clients", Y: "MB more than with none", X: "clients that have spoken once",
		Note: "Resident memory of the proxy, or of Redis where there is none. Less is better."}
	most := 0
	for _, x := range r.Idle {
		for i, step := range x.Steps {
			if i >= most {
				c.Categories = append(c.Categories, thousands(float64(step.Clients)))
				most++
			}
			c.add(x.Name, point{x: i, value: max(float64(step.After-x.Before)/(1<<20), 0)})
		}
	}
	return c
}

func (r *report) stormChart() chart {
	c := chart{Title: "p99 in a storm of refusals", Y: "us", Bars: true, Categories: []string{"calm", "storm"},
		Note: fmt.Sprintf("%d clients that are in, while %s others a second are refused. Less is better.",
			stormClients, thousands(stormKnocks))}
	for _, x := range r.Storms {
		c.add(x.Name, point{x: 0, value: asUS(x.Calm.P99)})
		c.add(x.Name, point{x: 1, value: asUS(x.Storm.P99)})
	}
	return c
}

// otherChart shows what has different units by its ratio to direct.
func (r *report) otherChart() chart {
	c := chart{Title: "Other work, of direct", Y: "times what is reached directly", Bars: true,
		Note: "Throughput divided by that of direct in the same round. More is better; 1 is as without a proxy."}
	for _, x := range []struct{ scenario, load, name string }{
		{"connect", "2,000 clients come", "connect"}, {"churn", "50 clients, a connection a command", "churn"},
		{"transactions", transactionLoads[0].Name, "MULTI"}, {"transactions", transactionLoads[1].Name, "WATCH"},
		{"blocking", "10 clients in BLPOP", "BLPOP"}, {"pubsub", "1,000 subscribers of a channel", "pub/sub"},
	} {
		got, err := r.load(x.load)
		if err != nil {
			continue
		}
		c.addRatios(got, x.name)
	}
	return c
}

func (r *report) largeChart() chart {
	c := chart{Title: "Large values, of direct", Y: "times what is reached directly", Bars: true,
		Note: "Bytes a second divided by those of direct in the same round. More is better."}
	for _, l := range largeLoads {
		if got, err := r.load(l.Name); err == nil {
			c.addRatios(got, l.Name)
		}
	}
	return c
}

func (c *chart) addRatios(r loadResult, category string) {
	x, some := len(c.Categories), false
	for _, t := range r.Targets {
		if t.Name == direct {
			continue
		}
		if got, err := r.compare(throughput, t.Name, direct); err == nil {
			c.add(t.Name, point{x: x, value: got.Median, low: got.Min, high: got.Max})
			some = true
		}
	}
	if some {
		c.Categories = append(c.Categories, category)
	}
}
