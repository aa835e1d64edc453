package multiplex

import (
	"math/bits"
	"time"
)

// How long commands take on lanes: from when the loop has read one, and puts it on the lane, until it reads the end of its
// reply. What blocks is on a pin and is not counted, and neither is what a command waited for before there was a lane.
//
// The clock is the loop's, which is read once a turn, so that a command costs a subtraction and a count: 5 ns.

// Latency counts commands by how long they took, in classes that are an eighth as wide as what is in them. The zero value has
// none. It belongs to the loop; copies may be handed out.
type Latency struct {
	// Counts has the classes. See LatencyBound.
	Counts [latencyClasses]uint64
	// Micros is how long all of them took together, in microseconds.
	Micros uint64
}

const (
	latencyFine    = 3 // bits of a time that tell classes apart
	latencyClasses = (32 - latencyFine + 1) << latencyFine
)

// note counts a command that took so many microseconds.
func (l *Latency) note(micros uint32) {
	l.Counts[latencyClass(micros)]++
	l.Micros += uint64(micros)
}

func latencyClass(micros uint32) uint32 {
	if micros < 1<<latencyFine {
		return micros
	}
	shift := uint32(bits.Len32(micros)) - latencyFine - 1
	return shift<<latencyFine + micros>>shift
}

// LatencyBound returns the time that everything in a class is shorter than.
func LatencyBound(class int) time.Duration {
	micros := uint64(class) + 1
	if class >= 1<<latencyFine {
		shift := class>>latencyFine - 1
		micros = uint64(class-shift<<latencyFine+1) << shift
	}
	return time.Duration(micros) * time.Microsecond
}

// Add adds what another has counted.
func (l *Latency) Add(other *Latency) {
	for i, n := range &other.Counts {
		l.Counts[i] += n
	}
	l.Micros += other.Micros
}

// Since returns what has been counted since it was what before says. What has become less, as a loop has ended, is none.
func (l *Latency) Since(before *Latency) Latency {
	now := *l
	for i, n := range &before.Counts {
		now.Counts[i] -= min(n, now.Counts[i])
	}
	now.Micros -= min(before.Micros, now.Micros)
	return now
}

// Count returns the number of commands.
func (l *Latency) Count() (n uint64) {
	for _, in := range &l.Counts {
		n += in
	}
	return n
}

// Quantile returns the time within which a part of the commands was answered, of which 1 is all. It is in the right class, and
// within that a guess. Without commands it is 0.
func (l *Latency) Quantile(part float64) time.Duration {
	want := part * float64(l.Count())
	if want == 0 {
		return 0
	}
	seen, below := 0.0, time.Duration(0)
	for class, n := range &l.Counts {
		bound := LatencyBound(class)
		if seen += float64(n); seen >= want && n > 0 {
			return bound - time.Duration(float64(bound-below)*(seen-want)/float64(n))
		}
		below = bound
	}
	return below
}

// Latency returns how long commands have taken.
func (p *Pool) Latency() Latency { return p.took }
