package doctor

import (
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// What the doctor promises is tried with the programs that the leak rules of the proxy are tried with, each with a Redis of its
// own: those that leak are named after half a minute, by what Redis itself tells, and the others are not.

const leaksFor = 48 * time.Second

// silent is no program: connections that never speak are quickly opened.
const silent = "silent"

var leakyPrograms = []struct {
	name, finding string // "" is none
	advises       string
}{
	{"connection-per-request", "churn", "fix-churn"},
	{"no-close-on-error", "leak-growing", "fix-growing"},
	{"pool-too-large", "leak-never-spoke", "fix-never-spoke"}, // those that it does not use have not even said their name
	{"forgotten-subscribers", "leak-growing", "fix-growing"},
	{silent, "leak-never-spoke", "fix-never-spoke"},
	{"steady", "", ""},
	{"bursty", "", ""},
}

func TestEveryLeakerIsNamedAndNobodyElse(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a minute")
	}
	t.Parallel() // it mostly waits
	built := filepath.Join(t.TempDir(), "leaks")
	if out, err := exec.Command("go", "build", "-o", built, "../../../proxy/testdata/leaks").CombinedOutput(); err != nil {
		t.Fatalf("building the programs: %v\n%s", err, out)
	}
	var all sync.WaitGroup
	for _, program := range leakyPrograms {
		s := proxytest.Redis(t)
		if program.name == silent {
			hold(t, s.Addr(), 20, "")
		} else {
			cmd := exec.Command(built, program.name, s.Addr(), "120")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		}
		all.Go(func() {
			time.Sleep(leaksFor)
			r := look(t, Config{URL: s.URL()})
			found := ""
			for _, f := range r.Findings {
				if strings.HasPrefix(f.Code, "leak-") || f.Code == "churn" {
					found += f.Code
					t.Logf("%s: %s: %s", program.name, f.Code, f.Text)
				}
			}
			if found != program.finding {
				t.Errorf("%s: found %q, want %q: %v", program.name, found, program.finding, r.Findings)
			}
			if program.advises != "" && r.advises(program.advises) == nil {
				t.Errorf("%s: advice: %+v", program.name, r.Advice)
			}
			if want := program.finding == ""; want != (r.ExitStatus == ExitHealthy) {
				t.Errorf("%s: status %s", program.name, r.Status)
			}
		})
	}
	all.Wait()
}
