package peer_test

import (
	"testing"

	"github.com/redbouncer/redbouncer/proxy/peer"
)

func TestAProcessThatIsNotThereIsNobody(t *testing.T) {
	for _, pid := range []int{-1, 0, 1 << 30} {
		if p, ok := peer.ByPID(pid); ok || p != (peer.Process{}) {
			t.Errorf("%d is %+v", pid, p)
		}
	}
}
