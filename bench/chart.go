package main

import (
	"fmt"
	"html/template"
	"math"
	"slices"
	"strings"
)

// Charts are SVG drawn here. What a series looks like, its colour, its dashes and its marks, is the same in all of them;
// colours are classes, so that the page decides between light and dark. Nothing is told by colour alone.

// Sizes of a chart, in its own units. The page scales it.
const (
	chartWidth  = 640
	chartHeight = 330
	plotLeft    = 64
	plotRight   = chartWidth - 12
	plotTop     = 32
	plotBottom  = chartHeight - 46
)

// chart is what is drawn.
type chart struct {
	Title string
	// Note says how to read it.
	Note string
	// Y is the unit of the figures.
	Y          string
	X          string
	Categories []string
	Series     []series
	Bars       bool
	Log        bool
	// Timed: the points have times instead of categories.
	Timed bool
}

// series is one target's figures.
type series struct {
	Name   string
	Points []point
}

// point is a figure with its range. upper is stacked on it, in bars; 0: nothing is.
type point struct {
	x                int     // number of the category
	at               float64 // seconds, if timed
	value, low, high float64
	upper            float64
}

// Style is the class of a series: its place among the contenders.
func (s series) Style() int {
	return max(slices.IndexFunc(contenders, func(c contender) bool { return c.name == s.Name }), 0)
}

// scale maps a figure to a height.
type scale struct {
	low, high float64
	log       bool
	ticks     []float64
}

func (c chart) scale() scale {
	low, high := math.Inf(1), 0.0
	for _, s := range c.Series {
		for _, p := range s.Points {
			high = max(high, p.value+p.upper, p.high)
			if p.value > 0 {
				low = min(low, p.value)
			}
		}
	}
	if high == 0 {
		high = 1
	}
	if c.Log {
		return logScale(min(low, high), high)
	}
	step := niceStep(high / 5)
	s := scale{high: math.Ceil(high/step) * step}
	for v := 0.0; v <= s.high+step/2; v += step {
		s.ticks = append(s.ticks, v)
	}
	return s
}

// logScale goes from the 1, 2 or 5 times a power of ten below the lowest figure to that above the highest. If that is
// much, only powers of ten have ticks.
func logScale(low, high float64) scale {
	s := scale{log: true}
	for v := math.Pow(10, math.Floor(math.Log10(low))); ; v = niceStep(v * 1.5) {
		if next := niceStep(v * 1.5); next <= low {
			continue
		}
		s.ticks = append(s.ticks, v)
		if v >= high && len(s.ticks) > 1 {
			break
		}
	}
	s.low, s.high = s.ticks[0], s.ticks[len(s.ticks)-1]
	if s.high/s.low > 150 {
		s.ticks = slices.DeleteFunc(s.ticks, func(v float64) bool { return !powerOfTen(v) })
	}
	s.low /= 1.3 // that a line at the lowest be seen
	return s
}

func powerOfTen(v float64) bool {
	exponent := math.Log10(v)
	return math.Abs(exponent-math.Round(exponent)) < 0.01
}

// niceStep is the 1, 2 or 5 times a power of ten that is not less.
func niceStep(v float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, n := range []float64{1, 2, 5} {
		if n*power >= v*0.999 {
			return n * power
		}
	}
	return 10 * power
}

func (s scale) y(v float64) float64 {
	share := v / s.high
	if s.log {
		share = (math.Log10(max(v, s.low)) - math.Log10(s.low)) / (math.Log10(s.high) - math.Log10(s.low))
	}
	return plotBottom - min(max(share, 0), 1)*(plotBottom-plotTop)
}

// drawing is a chart on its way to SVG.
type drawing struct {
	strings.Builder
	c chart
	s scale
}

// SVG draws the chart.
func (c chart) SVG() template.HTML {
	d := &drawing{c: c, s: c.scale()}
	d.put(`<svg viewBox="0 0 %d %d" role="img" aria-label="%s">`, chartWidth, chartHeight, c.Title+". "+c.Note)
	d.axes()
	if c.Bars {
		d.bars()
	} else {
		for _, s := range c.Series {
			d.line(s)
		}
	}
	d.WriteString(`</svg>`)
	// Every text in it went through put, which escapes it.
	return template.HTML(d.String())
}

// put writes with every string escaped.
func (d *drawing) put(format string, args ...any) {
	for i, arg := range args {
		if text, ok := arg.(string); ok {
			args[i] = template.HTMLEscapeString(text)
		}
	}
	fmt.Fprintf(d, format, args...)
}

func (d *drawing) axes() {
	for _, v := range d.s.ticks {
		y := d.s.y(v)
		d.put(`<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/>`, plotLeft, plotRight, y, y)
		d.put(`<text class="tick" x="%d" y="%.1f" text-anchor="end">%s</text>`, plotLeft-6, y+4, short(v))
	}
	if !d.c.Timed {
		for i, name := range d.c.Categories {
			d.put(`<text class="tick" x="%.1f" y="%d" text-anchor="middle">%s</text>`, d.middle(i), plotBottom+18, name)
		}
	} else {
		last := d.lastTime()
		step := niceStep(last / 6)
		for t := 0.0; t <= last; t += step {
			d.put(`<text class="tick" x="%.1f" y="%d" text-anchor="middle">%s</text>`, d.timeX(t), plotBottom+18, short(t))
		}
	}
	d.put(`<text class="tick" x="%d" y="%d" text-anchor="middle">%s</text>`, (plotLeft+plotRight)/2, chartHeight-8, d.c.X)
	d.put(`<text class="tick" x="4" y="%d">%s</text>`, plotTop-18, d.c.Y)
}

// short is a number on an axis.
func short(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%gM", math.Round(v/1e4)/100)
	case v >= 1e4:
		return fmt.Sprintf("%gk", math.Round(v/10)/100)
	case v >= 1000:
		return thousands(v)
	}
	return fmt.Sprintf("%g", math.Round(v*1000)/1000)
}

// middle is where a category is.
func (d *drawing) middle(i int) float64 {
	width := float64(plotRight-plotLeft) / float64(max(len(d.c.Categories), 1))
	return plotLeft + width*(float64(i)+0.5)
}

func (d *drawing) lastTime() float64 {
	last := 0.1
	for _, s := range d.c.Series {
		for _, p := range s.Points {
			last = max(last, p.at)
		}
	}
	return last
}

func (d *drawing) timeX(t float64) float64 { return plotLeft + t/d.lastTime()*(plotRight-plotLeft) }

// line draws a series from point to point, in steps if it is timed.
func (d *drawing) line(s series) {
	style := s.Style()
	var path strings.Builder
	for i, p := range s.Points {
		x, y := d.middle(p.x), d.s.y(p.value)
		if d.c.Timed {
			x = d.timeX(p.at)
			if i > 0 {
				fmt.Fprintf(&path, "H%.1f", x)
			}
		}
		move := "L"
		if i == 0 {
			move = "M"
		}
		fmt.Fprintf(&path, "%s%.1f %.1f", move, x, y)
	}
	d.put(`<path class="line s%d" d="%s"/>`, style, path.String())
	if d.c.Timed {
		return
	}
	for _, p := range s.Points {
		x := d.middle(p.x)
		d.whisker(x+4*float64(style-2), p, style)
		d.mark(style, x, d.s.y(p.value), d.c.tip(s, p))
	}
}

// whisker shows the range.
func (d *drawing) whisker(x float64, p point, style int) {
	if p.high > p.low {
		d.put(`<line class="whisker s%d" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, style, x, x, d.s.y(p.low), d.s.y(p.high))
	}
}

// tip is what a pointer that rests on the figure is told.
func (c chart) tip(s series, p point) string {
	text := s.Name + ": " + figure(p.value)
	if p.upper > 0 {
		text += " + " + figure(p.upper)
	}
	if p.high > p.low {
		text += " (" + figure(p.low) + " to " + figure(p.high) + ")"
	}
	if p.x < len(c.Categories) {
		text += ", " + c.Categories[p.x]
	}
	return text
}

// figure is a number with three digits or more.
func figure(v float64) string {
	switch {
	case math.Abs(v) >= 100:
		return thousands(v)
	case math.Abs(v) >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// marks are the shapes of points, around 0 0.
var marks = []string{
	`M-5-5H5V5H-5Z`, `M0-6A6 6 0 1 1 0 6A6 6 0 1 1 0-6Z`, `M0-7L7 0L0 7L-7 0Z`, `M0-7L6.5 5H-6.5Z`, `M0 7L6.5-5H-6.5Z`,
}

func (d *drawing) mark(style int, x, y float64, tip string) {
	d.put(`<path class="mark s%d" transform="translate(%.1f %.1f)" d="%s"><title>%s</title></path>`,
		style, x, y, marks[style%len(marks)], tip)
}

// bars draws a group for each category, of those that have a figure in it.
func (d *drawing) bars() {
	group := float64(plotRight-plotLeft) / float64(max(len(d.c.Categories), 1))
	width := min(group*0.84/float64(max(len(d.c.Series), 1)), 46)
	members, drawn := make([]int, len(d.c.Categories)), make([]int, len(d.c.Categories))
	for _, s := range d.c.Series {
		for _, p := range s.Points {
			members[p.x]++
		}
	}
	for _, s := range d.c.Series {
		for _, p := range s.Points {
			d.bar(s, p, [2]float64{d.middle(p.x) + width*(float64(drawn[p.x])-float64(members[p.x])/2), width})
			drawn[p.x]++
		}
	}
}

// bar draws one at that place, of that width.
func (d *drawing) bar(s series, p point, at [2]float64) {
	x, width := at[0], at[1]
	top := d.s.y(p.value)
	d.put(`<rect class="bar s%d" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>%s</title></rect>`,
		s.Style(), x+1, top, width-2, plotBottom-top, d.c.tip(s, p))
	if p.upper > 0 {
		upper := d.s.y(p.value + p.upper)
		d.put(`<rect class="upper s%d" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>%s</title></rect>`,
			s.Style(), x+1, upper, width-2, top-upper, d.c.tip(s, p))
		top = upper
	}
	d.whisker(x+width/2, p, s.Style())
	d.put(`<text class="value" x="%.1f" y="%.1f" text-anchor="middle">%s</text>`,
		x+width/2, min(top, d.s.y(max(p.high, 0)))-4, short(twoDigits(p.value+p.upper)))
}

// twoDigits is enough above a bar.
func twoDigits(v float64) float64 {
	if v <= 0 {
		return 0
	}
	unit := math.Pow(10, math.Floor(math.Log10(v))-1)
	return math.Round(v/unit) * unit
}
