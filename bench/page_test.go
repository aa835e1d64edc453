package main

import (
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"
)

// fullReport has a figure for every chart.
func fullReport() *report {
	r := reportOf(0).others(600, 2, 50*time.Millisecond, 50*time.Millisecond, 0)
	r.Upstreams = []upstreamResult{{redbouncer, []upstreamPoint{{0, 50, 1}, {time.Second, 2000, 1}, {2 * time.Second, 0, 0}}}}
	r.Versions = []string{"Redis server v=7.0.15"}
	r.judge()
	return r
}

func TestThePageHasEveryChartAndEveryGoal(t *testing.T) {
	r := fullReport()
	page, err := r.page()
	if err != nil {
		t.Fatal(err)
	}
	for _, title := range []string{
		"Throughput against clients", "Throughput of other loads", "CPU a command", "CPU a command in a pipeline", "Latency at 25 % of peak",
		"Latency at 50 % of peak", "Latency at 75 % of peak", "Upstream connections over time", "Memory against idle clients",
		"p99 in a storm of refusals", "Other work, of direct", "Large values, of direct",
	} {
		if !strings.Contains(string(page), "<h3>"+title) {
			t.Errorf("there is no chart %q", title)
		}
	}
	if got := strings.Count(string(page), `class="verdict `); got != len(goals) {
		t.Errorf("%d verdicts, want %d", got, len(goals))
	}
}

func TestThePageNeedsNothingElse(t *testing.T) {
	page, err := fullReport().page()
	if err != nil {
		t.Fatal(err)
	}
	if found := regexp.MustCompile(`(?i)(src|href)\s*=|url\(|@import|<script|<link`).FindAll(page, -1); len(found) > 0 {
		t.Errorf("the page refers to something: %q", found)
	}
}

func TestWhatIsMeasuredCannotBecomeMarkup(t *testing.T) {
	const evil = `<script>alert("x")</script>&`
	r := fullReport()
	r.Machine, r.Commit, r.Command, r.Settings = evil, evil, evil, evil
	r.Versions, r.Skipped = []string{evil}, []string{evil}
	r.Verdicts[0].Outcome, r.Verdicts[0].Promise, r.Verdicts[0].Got = evil, evil, nil
	r.Loads[0].Name, r.Loads[0].LeftOut = evil, []string{evil}
	for i := range r.Loads {
		r.Loads[i].Targets[0].Name = evil
	}
	r.Upstreams[0].Name, r.Idle[0].Name, r.Storms[0].Name = evil, evil, evil
	page, err := r.page()
	if err != nil || strings.Contains(string(page), "<script") {
		t.Errorf("%v: there is markup in the page", err)
	}
}

func TestChartsAreWellFormedAndSayWhatTheyAre(t *testing.T) {
	charts := fullReport().Charts()
	if len(charts) == 0 {
		t.Fatal("there are no charts")
	}
	for _, c := range charts {
		svg := string(c.SVG())
		if !strings.Contains(svg, `role="img" aria-label="`+c.Title) {
			t.Errorf("%s: nobody who does not see it is told", c.Title)
		}
		if regexp.MustCompile(`NaN|Inf|%!`).MatchString(svg) {
			t.Errorf("%s: %s", c.Title, svg)
		}
		for d := xml.NewDecoder(strings.NewReader(svg)); ; {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Errorf("%s: %v", c.Title, err)
				break
			}
		}
	}
}

func TestAnEmptyReportIsAPageWithoutCharts(t *testing.T) {
	page, err := (&report{}).page()
	if err != nil || strings.Contains(string(page), "<figure>") {
		t.Errorf("%v\n%s", err, page)
	}
}

func TestAScaleCoversItsFigures(t *testing.T) {
	for _, c := range []struct {
		log       bool
		low, high float64
	}{
		{false, 1, 7}, {false, 0.2, 0.9}, {false, 1, 133_414}, {true, 1, 2000}, {true, 59, 811}, {true, 5, 5}, {true, 100, 1000},
	} {
		s := chart{Log: c.log, Series: []series{{"x", []point{{value: c.low}, {value: c.high}}}}}.scale()
		n := len(s.ticks)
		if n < 2 || n > 9 || s.high < c.high || s.y(c.high) < plotTop-0.01 || s.y(c.low) > plotBottom+0.01 || s.y(c.low) < s.y(c.high) {
			t.Errorf("%+v: %+v", c, s)
		}
	}
}
