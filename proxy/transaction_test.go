package proxy

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// Go ends a program whose stack becomes too large, and how long a transaction is, is for the client to say.
func TestAnswersInATransactionNeedNoStackForEachOther(t *testing.T) {
	const n = 1000
	for _, late := range []bool{false, true} {
		var waiting []func()
		deepest := 0
		answer := func(reply []byte, done func([]byte)) {
			deepest = max(deepest, runtime.Callers(0, make([]uintptr, 2*n)))
			if !late {
				done(append([]byte(":1"), reply[1:]...))
				return
			}
			waiting = append(waiting, func() { done(append([]byte(":1"), reply[1:]...)) })
		}
		tx := transaction{}
		for range n {
			tx.add(answer, false)
			tx.add(nil, false)
		}
		var got []byte
		tx.answer(fmt.Appendf(nil, "*%d\r\n%s", 2*n, strings.Repeat(":5\r\n+OK\r\n", n)), func(reply []byte) { got = reply })
		for len(waiting) > 0 {
			next := waiting[0]
			waiting = waiting[1:]
			next()
		}
		if want := fmt.Sprintf("*%d\r\n%s", 2*n, strings.Repeat(":15\r\n+OK\r\n", n)); string(got) != want {
			t.Errorf("late %t: the reply is %.80q, want %.80q", late, got, want)
		}
		if deepest > 50 {
			t.Errorf("late %t: %d functions were under way within each other for %d answers", late, deepest, n)
		}
	}
}
