package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// How many rounds, and how long. Many short measurements beat a few long ones: what disturbs them most, where
// the kernel puts three processes on two CPUs, lasts for a whole measurement. With a bare proxy on a quiet
// machine, the median of 5 ratios to twemproxy's CPU lay between 0.69 and 1.02, of 15 at 0.91 and 0.92.
// The defaults keep the whole report below ten minutes; for a decision, use --rounds 15.
const (
	defaultRounds   = 5
	defaultDuration = 700 * time.Millisecond
)

// settings are what the flags say.
type settings struct {
	// rounds is how often every target is measured at every load. At least 1.
	rounds int
	// duration is how long one measurement should take.
	duration time.Duration
	// idleClients are the numbers of clients that the scenario idle connects, one after the other.
	idleClients []int
	// storm is how long the scenario storm measures, in calm and in the storm each.
	storm time.Duration
	// soak is how long the scenario soak loads.
	soak time.Duration
	// settle is how long idle clients are left alone before memory is read.
	settle time.Duration
	// proxy is the program to measure as redbouncer. Empty: it is built from this module.
	proxy string
	// peers names the contenders to measure beside it.
	peers []string
	// client is what loads.
	client string
	// pin keeps the load on one CPU and everything that serves it on another.
	pin bool
	// target and direct are addresses to load instead of servers of our own. Empty: start those.
	target, direct string
	allowRemote    bool
	maxClients     int
	maxRate        float64
	// dryRun says what would be done.
	dryRun bool
	// out is the directory that receives report.json and report.html. Empty: neither.
	out string
	// scenarios names what to run. Empty: all but the heavy ones.
	scenarios []string
}

// parseSettings reads the flags, which may stand before and after the names of scenarios, and checks what a flag alone
// can get wrong.
func parseSettings(args []string, stderr io.Writer) (settings, error) {
	var set settings
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&set.rounds, "rounds", defaultRounds, "measure every target `N` times at every load")
	flags.DurationVar(&set.duration, "duration", defaultDuration, "aim at this `time` for one measurement")
	idle := flags.String("idle-clients", "1000,5000,10000", "connect these `numbers` of clients in the scenario idle, one after the other")
	flags.DurationVar(&set.settle, "settle", 2*time.Second, "leave idle clients alone for this `time` before memory is read")
	flags.DurationVar(&set.storm, "storm", 5*time.Second, "measure for this `time` in calm and in the storm each")
	flags.DurationVar(&set.soak, "soak", 30*time.Second, "load for this `time` in the scenario soak")
	flags.StringVar(&set.proxy, "proxy", "", "measure the program at `path`; without it, redbouncer is built from this module")
	peers := flags.String("peers", strings.Join(peerNames(), ","), "measure these `names` beside it, or none")
	flags.StringVar(&set.client, "client", rawClient, "load with this `client`: "+strings.Join(clients, ", "))
	flags.BoolVar(&set.pin, "pin", false, "keep the load on CPU 0 and the servers on CPU 1: steadier, less lifelike")
	flags.StringVar(&set.target, "target", "", "start nothing and load this `address`: host:port or redis://user:password@host:port")
	flags.StringVar(&set.direct, "direct", "", "compare --target with this `address`")
	flags.BoolVar(&set.allowRemote, "allow-remote", false, "let --target and --direct be on other hosts: you may load them")
	flags.IntVar(&set.maxClients, "max-clients", remoteMaxClients, "open at most `N` connections to --target")
	flags.Float64Var(&set.maxRate, "max-rate", -1, "send --target at most `N` commands a second; 0: no bound (default 5000)")
	flags.BoolVar(&set.dryRun, "dry-run", false, "say what would be done, and end")
	flags.StringVar(&set.out, "out", "", "write report.html and report.json to this `directory`")
	flags.Usage = func() { printUsage(stderr, flags) }
	for rest := args; ; {
		if err := flags.Parse(rest); err != nil {
			return set, err
		}
		if flags.NArg() == 0 {
			break
		}
		set.scenarios = append(set.scenarios, flags.Arg(0))
		rest = flags.Args()[1:]
	}
	if *peers != "" && *peers != "none" {
		set.peers = strings.Split(*peers, ",")
	}
	if set.maxRate == -1 {
		set.maxRate = 0
		if set.target != "" {
			set.maxRate = remoteMaxRate
		}
	}
	var err error
	if set.idleClients, err = parseNumbers(*idle); err != nil {
		return set, err
	}
	return set, set.validate()
}

// parseNumbers reads rising numbers of clients.
func parseNumbers(text string) ([]int, error) {
	var numbers []int
	for field := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < 1 || n > 50000 || len(numbers) > 0 && n <= numbers[len(numbers)-1] {
			return nil, fmt.Errorf("--idle-clients %s: want rising numbers from 1 to 50000, separated by commas", text)
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

func (set settings) validate() error {
	for _, d := range []struct {
		flag        string
		got         time.Duration
		least, most time.Duration
	}{
		{"duration", set.duration, 50 * time.Millisecond, time.Minute},
		{"storm", set.storm, 100 * time.Millisecond, 5 * time.Minute},
		{"soak", set.soak, 100 * time.Millisecond, 24 * time.Hour},
		{"settle", set.settle, 0, 10 * time.Minute},
	} {
		if d.got < d.least || d.got > d.most {
			return fmt.Errorf("--%s %s: want %s to %s", d.flag, d.got, d.least, d.most)
		}
	}
	switch {
	case set.rounds < 1 || set.rounds > 1000:
		return fmt.Errorf("--rounds %d: want 1 to 1000", set.rounds)
	case set.pin && runtime.NumCPU() < 2:
		return errors.New("--pin: want at least 2 CPUs")
	case !slices.Contains(clients, set.client):
		return fmt.Errorf("--client %s: want one of %s", set.client, strings.Join(clients, ", "))
	}
	for _, name := range set.peers {
		if c, ok := contenderNamed(name); !ok || !c.named() {
			return fmt.Errorf("--peers: %q is not known; want none, or some of %s", name, strings.Join(peerNames(), ","))
		}
	}
	return set.validateTarget()
}

// roundsOf is how many rounds a scenario has.
func (set settings) roundsOf(sc scenario) int {
	return max(set.rounds/max(sc.fewer, 1), min(set.rounds, 3))
}

// loadCPU is the CPU that the load stays on; -1: any.
func (set settings) loadCPU() int {
	if set.pin {
		return loadCPU
	}
	return -1
}

func printUsage(w io.Writer, flags *flag.FlagSet) {
	fmt.Fprint(w, "usage: go run ./bench [flags] [scenario ...]\n\nscenarios (default: all but those marked *):\n")
	for _, sc := range scenarios {
		mark := " "
		if sc.heavy {
			mark = "*"
		}
		fmt.Fprintf(w, "  %-12s %s %s\n", sc.name, mark, sc.about)
	}
	fmt.Fprint(w, "\nflags:\n")
	flags.PrintDefaults()
	fmt.Fprintf(w, "\nenvironment:\n  %s  the redis-server or valkey-server to start (default: redis-server)\n", redisServerEnv)
}
