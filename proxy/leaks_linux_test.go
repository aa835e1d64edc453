package proxy_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/proxy"
)

// What the leak rules promise is tried with programs that leak in the ways that programs do, with the thresholds that
// everybody has: each is named within a minute of its first connection, with what one needs to find the code, and nobody
// else is. The file is for Linux, where the process of a client on TCP can be found.

const (
	namedWithin  = 60 * time.Second
	watchedFor   = 75 * time.Second
	deployedEach = 15 * time.Second
)

// leakyProgram is one of those in testdata/leaks.
type leakyProgram struct {
	name string
	rule limits.LeakRule // that names it; "" is none
	last string          // the last command of what has leaked
}

var leakyPrograms = []leakyProgram{
	{"connection-per-request", limits.Churn, "get"},
	{"no-close-on-error", limits.Growing, "hget"},
	{"pool-too-large", limits.PoolTooLarge, ""},
	{"forgotten-subscribers", limits.Growing, "subscribe"},
	{"never-used", limits.NeverSpoke, ""},
	{"steady", "", ""},
	{"bursty", "", ""},
	{"deployed", "", ""},
}

// language is how programs are run, and what the proxy sees of them.
type language struct {
	name    string
	command func(program, addr string, lasts time.Duration) *exec.Cmd
	process func(program string) (executable, line string)
	lib     string // "": it does not say
}

func TestEveryLeakerIsNamedAndNobodyElse(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes more than a minute")
	}
	if underRace { // the ledger, the keeper and the search for processes have tests of their own under it
		t.Skip("connections of a millisecond are over before their process is found, where the proxy is that slow")
	}
	t.Parallel() // it mostly waits
	languages := []language{leaksInGo(t)}
	if python, ok := leaksInPython(t); ok {
		languages = append(languages, python)
	}
	log := &lockedBuffer{}
	_, p := redisAndProxy(t, func(c *proxy.Config) { c.Log = slog.New(slog.NewJSONHandler(log, nil)) })

	var running []*leaky
	var deploying sync.WaitGroup
	for _, l := range languages {
		for _, program := range leakyPrograms {
			if program.name == "deployed" {
				deploying.Go(func() { deploy(t, l, p.Addr()) })
				continue
			}
			running = append(running, startLeaky(t, l, program, p.Addr()))
		}
	}
	deploying.Wait() // that is how long all are watched
	for _, program := range running {
		program.stop()
	}

	notices := leakNotices(t, log)
	for _, program := range running {
		program.judge(t, notices[program.pid])
		delete(notices, program.pid)
	}
	for _, others := range notices {
		for _, n := range others {
			// On a busy machine, short connections may all be over before their process is found. Then it is the address that is
			// named, with the leaker's name.
			if n.PID == "" && n.Rule == limits.Churn && n.Name == "connection-per-request" {
				t.Logf("named by its address too: %s", n.line)
				continue
			}
			t.Errorf("somebody else is named: %s", n.line)
		}
	}
}

// leaksInGo builds the programs, which are one, and gives it a name for each.
func leaksInGo(t *testing.T) language {
	t.Helper()
	dir := t.TempDir()
	built := filepath.Join(dir, "leaks")
	if out, err := exec.Command("go", "build", "-o", built, "./testdata/leaks").CombinedOutput(); err != nil {
		t.Fatalf("building the programs: %v\n%s", err, out)
	}
	for _, program := range leakyPrograms {
		if err := os.Link(built, filepath.Join(dir, program.name)); err != nil {
			t.Fatal(err)
		}
	}
	return language{
		name: "Go",
		command: func(program, addr string, lasts time.Duration) *exec.Cmd {
			return exec.Command(filepath.Join(dir, program), program, addr, inSeconds(lasts))
		},
		process: func(program string) (executable, line string) { return program, program },
		lib:     "go-redis",
	}
}

// leaksInPython reports false where the library is not installed.
func leaksInPython(t *testing.T) (language, bool) {
	t.Helper()
	const python, script = "/usr/bin/python3", "leaks.py"
	version, err := exec.Command(python, "-c", "import redis; print(redis.__version__)").CombinedOutput()
	if err != nil {
		t.Logf("Python is not tried: %v: %s", err, version)
		return language{}, false
	}
	lib := "redis-py"
	if string(version) < "5" {
		lib = ""
	}
	executable, err := filepath.EvalSymlinks(python)
	if err != nil {
		t.Fatal(err)
	}
	return language{
		name: "Python",
		command: func(program, addr string, lasts time.Duration) *exec.Cmd {
			cmd := exec.Command(python, script, program, addr, inSeconds(lasts))
			cmd.Dir = filepath.Join("testdata", "leaks")
			return cmd
		},
		process: func(string) (name, line string) { return filepath.Base(executable), "python3 " + script },
		lib:     lib,
	}, true
}

func inSeconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }

// leaky is a running program.
type leaky struct {
	leakyProgram
	in    language
	cmd   *exec.Cmd
	pid   int
	begun time.Time // when it was about to make its first connection
}

// startLeaky starts a program, and returns when that has begun.
func startLeaky(t *testing.T, l language, program leakyProgram, addr string) *leaky {
	t.Helper()
	x := &leaky{leakyProgram: program, in: l, cmd: l.command(program.name, addr, 3*watchedFor)} // should nobody stop it
	out, err := x.cmd.StdoutPipe()
	if err == nil {
		x.cmd.Stderr = t.Output()
		err = x.cmd.Start()
	}
	if err != nil {
		t.Fatalf("%s: %v", x, err)
	}
	x.pid = x.cmd.Process.Pid
	t.Cleanup(x.stop)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "begun\n" {
		t.Fatalf("%s said %q instead of begun: %v", x, line, err)
	}
	x.begun = time.Now()
	return x
}

func (x *leaky) String() string { return x.name + " in " + x.in.name }

func (x *leaky) stop() {
	if x.cmd.ProcessState == nil {
		_ = x.cmd.Process.Kill()
		_ = x.cmd.Wait()
	}
}

// deploy runs one version of a program after the other, until the watch is over.
func deploy(t *testing.T, l language, addr string) {
	for range watchedFor / deployedEach {
		if out, err := l.command("deployed", addr, deployedEach).CombinedOutput(); err != nil {
			t.Errorf("deployed in %s: %v\n%s", l.name, err, out)
			return
		}
	}
}

// notice is a line of the log about a leak.
type notice struct {
	line string

	Time        time.Time       `json:"time"`
	Msg         string          `json:"msg"`
	Source      string          `json:"source"`
	Rule        limits.LeakRule `json:"rule"`
	PID         string          `json:"pid"`
	Process     string          `json:"process"`
	Name        string          `json:"name"`
	Lib         string          `json:"lib"`
	CommandLine string          `json:"command_line"`
	LastCommand string          `json:"last_command"`
}

// leakNotices returns what the log has said, by process; 0 is none.
func leakNotices(t *testing.T, log *lockedBuffer) map[int][]notice {
	t.Helper()
	notices := map[int][]notice{}
	for line := range strings.Lines(log.String()) {
		n := notice{line: line}
		if err := json.Unmarshal([]byte(line), &n); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if strings.HasPrefix(n.Msg, "connection leak") {
			pid, _ := strconv.Atoi(n.PID)
			notices[pid] = append(notices[pid], n)
		}
	}
	return notices
}

// judge looks at what the log has said of a program.
func (x *leaky) judge(t *testing.T, notices []notice) {
	t.Helper()
	if x.rule == "" {
		for _, n := range notices {
			t.Errorf("%s does not leak, and is named: %s", x, n.line)
		}
		return
	}
	if len(notices) == 0 {
		t.Errorf("%s has not been named in %v", x, watchedFor)
		return
	}
	if len(notices) > 1 {
		t.Errorf("%s is spoken of again: %s", x, notices[1].line)
	}
	n := notices[0]
	n.Lib = n.Lib[:strings.IndexAny(n.Lib+"/", "(/")] // without its version
	process, line := x.in.process(x.name)
	want := notice{
		line: n.line, Time: n.Time, Msg: "connection leak suspected", Rule: x.rule,
		Source: fmt.Sprintf("%s[%d] %s", process, x.pid, x.name), PID: strconv.Itoa(x.pid), Process: process,
		Name: x.name, Lib: x.in.lib, CommandLine: line, LastCommand: x.last,
	}
	switch x.rule {
	case limits.NeverSpoke: // nor has it said who it is
		want.Source, want.Name, want.Lib = fmt.Sprintf("%s[%d]", process, x.pid), "", ""
	case limits.PoolTooLarge: // what is not used may have been greeted
		want.LastCommand = n.LastCommand
	}
	if n != want {
		t.Errorf("%s is named by\n%swant %+v", x, n.line, want)
	}
	took := n.Time.Sub(x.begun)
	if took > namedWithin {
		t.Errorf("%s is named after %v, want %v", x, took, namedWithin)
	}
	t.Logf("%s: %s after %.0f s: %s", x, n.Rule, took.Seconds(), n.line)
}
