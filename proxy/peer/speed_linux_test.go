package peer

import (
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// How fast, and how often in time.

// needDescriptors skips a test that holds some two thousand connections where there may not be so many.
func needDescriptors(t *testing.T) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < 3000 {
		t.Skipf("there may be %d open files", limit.Cur)
	}
}

// crowd has so many processes connect so often each, and returns what was accepted.
func crowd(tb testing.TB, processes, each int) (conns []net.Conn, pids map[int]int) {
	ln, accepted := listen(tb, "tcp", "127.0.0.1:0")
	pids = map[int]int{}
	for range processes {
		cmd := start(tb, "tcp "+ln.Addr().String()+" "+strconv.Itoa(each))
		pids[cmd.Process.Pid] = 0
	}
	for range processes * each {
		nc := <-accepted
		tb.Cleanup(func() { _ = nc.Close() })
		conns = append(conns, nc)
	}
	return conns, pids
}

func TestTwoThousandConnectionsAreFoundInOneSearch(t *testing.T) {
	needDescriptors(t)
	conns, pids := crowd(t, 5, 400)
	r := running(t)
	began := time.Now()
	var waits []chan answer
	for _, nc := range conns {
		waits = append(waits, r.lookup(t, nc))
	}
	for _, c := range waits {
		a := get(t, c)
		if _, ok := pids[a.PID]; !a.ok || !ok {
			t.Fatalf("%+v", a)
		}
		pids[a.PID]++
	}
	took := time.Since(began)
	for pid, n := range pids {
		if n != 400 {
			t.Errorf("process %d has %d", pid, n)
		}
	}
	r.Stop()
	t.Logf("%s, %s each, %d searches", took, took/time.Duration(len(conns)), r.scans)
	if r.scans > 8 { // one or two; a machine that is busy elsewhere may see a few more
		t.Errorf("it took %d searches", r.scans)
	}
}

func TestMostConnectionsThatLiveForAMillisecondAreFound(t *testing.T) {
	needDescriptors(t)
	for _, processes := range []int{1, 8} {
		t.Run(strconv.Itoa(processes), func(t *testing.T) {
			r := running(t)
			ln, accepted := listen(t, "tcp", "127.0.0.1:0")
			for range processes {
				start(t, "churn "+ln.Addr().String()+" 1000")
			}
			var waits []chan answer
			for range 2000 {
				nc := <-accepted
				t.Cleanup(func() { _ = nc.Close() })
				waits = append(waits, r.lookup(t, nc))
			}
			hits := 0
			for _, c := range waits {
				if get(t, c).ok {
					hits++
				}
			}
			t.Logf("%d of %d", hits, len(waits))
			if hits == 0 && !(underRace && processes > 1) { // there they are over before they are looked for
				t.Error("none was found")
			}
		})
	}
}

func BenchmarkLookup(b *testing.B) {
	ln, accepted := listen(b, "tcp", "127.0.0.1:0")
	start(b, "tcp "+ln.Addr().String()+" 1")
	r := running(b)
	nc := <-accepted
	for b.Loop() {
		if a := get(b, r.lookup(b, nc)); !a.ok {
			b.Fatal("not found")
		}
	}
}

func BenchmarkSearch(b *testing.B) { // of all processes, for one socket that nobody has
	r := NewResolver()
	defer r.Stop()
	withoutDiag(r)
	for b.Loop() {
		r.want(&lookup{done: func(*Process) {}}, 1)
		r.searchAll()
	}
}

func BenchmarkTables(b *testing.B) {
	for b.Loop() {
		readTables(map[ends]uint32{})
	}
}

func BenchmarkByPID(b *testing.B) {
	for b.Loop() {
		if _, ok := ByPID(os.Getpid()); !ok {
			b.Fatal("not found")
		}
	}
}
