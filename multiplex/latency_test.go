package multiplex

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestClassesOfLatencyFollowOneAnother(t *testing.T) {
	for class := range latencyClasses {
		bound := LatencyBound(class) / time.Microsecond
		if got := latencyClass(uint32(bound - 1)); int(got) != class {
			t.Errorf("%d us are in class %d, want %d", bound-1, got, class)
		}
		if class+1 < latencyClasses {
			if got := latencyClass(uint32(bound)); int(got) != class+1 {
				t.Errorf("%d us are in class %d, want %d", bound, got, class+1)
			}
		}
	}
	if bound := LatencyBound(latencyClasses - 1); bound != time.Microsecond<<32 {
		t.Errorf("the last class ends at %v", bound)
	}
}

func TestQuantilesOfLatencyAreAnEighthOffAtMost(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var before, l Latency
	before.note(3)
	l.Add(&before)
	all := make([]uint32, 10_000)
	for i := range all {
		all[i] = 20 + uint32(random.ExpFloat64()*300)
		l.note(all[i])
	}
	slices.Sort(all)
	l = l.Since(&before)
	if n := l.Count(); n != 10_000 {
		t.Errorf("%d commands", n)
	}
	for _, part := range []float64{0.01, 0.5, 0.9, 0.99, 0.999, 1} {
		want := time.Duration(all[int(part*10_000)-1]) * time.Microsecond
		if got := l.Quantile(part); got < want*7/8 || got > want*9/8+time.Microsecond {
			t.Errorf("%v of the commands took up to %v, want %v", part, got, want)
		}
	}
	if got := new(Latency).Quantile(0.5); got != 0 {
		t.Errorf("no commands took %v", got)
	}
}

func BenchmarkACommandIsCounted(b *testing.B) {
	var l Latency
	for i := range b.N {
		l.note(uint32(i) & 0xfff)
	}
}
