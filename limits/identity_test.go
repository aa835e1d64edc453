package limits_test

import (
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/limits"
)

// What a client says of itself becomes a key of maps, a field of the log and a label of metrics, and outlives it there: a
// thousand names of 100 MB are not to be kept for ten minutes.
func TestNobodyIsRememberedByMoreThanALittle(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	g := limits.NewGate(10, noon.Sub(noon))
	a := g.Admit(&limits.Identities{limits.ByAddr: "192.0.2.1", limits.ByUser: long}, nobody{}, noon)
	for _, more := range []string{"", "1", "2"} {
		a.Identify(func(ids *limits.Identities) { ids[limits.ByName], ids[limits.ByLib] = long+more, more+long }, noon)
		for k, value := range a.Identities() {
			if len(value) > limits.MaxIdentity {
				t.Errorf("%s: %d bytes are kept", limits.IdentityKind(k), len(value))
			}
		}
	}
	b := g.Admit(a.Identities(), nobody{}, noon)
	if a.Identities() != b.Identities() {
		t.Error("what has been shortened is shortened again")
	}
	a.Leave(noon)
	b.Leave(noon)
	if left := g.Remembered(); left != "" {
		t.Error(left)
	}
}
