package proxy

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/certs"
	"github.com/redbouncer/redbouncer/proxy/peer"
)

// DefaultLoops returns the number of event loops that a Server has if it is not told: half of the processors, as
// the upstream and the kernel need some too, and at most 4, which is what one upstream can keep busy. On two
// processors one loop was measured to be faster than two by half: more loops mean less batching.
func DefaultLoops() int { return min(max(runtime.GOMAXPROCS(0)/2, 1), 4) }

// Server is the proxy. Create it with New.
type Server struct {
	// Static after construction.
	cfg        Config     // of the start: see current
	addrs      []net.Addr // of the listeners
	sockets    []*os.File // of those listeners that cannot be opened again by their address; nil for others
	workers    []*worker
	started    time.Time
	gate       *limits.Gate
	ledger     *limits.Ledger
	resolver   *peer.Resolver
	guesses    *limits.Guesses
	budget     *limits.Budget
	primary    *multiplex.Primary
	control    *multiplex.Control
	learner    *learner
	certs      *certs.Store // of TLS listeners; nil: there are none
	handshakes *handshakes

	// Atomic.
	current   atomic.Pointer[Config] // what the server has been told last: see Reload
	protected atomic.Bool            // clients of other hosts are refused
	ids       atomic.Int64
	phase     atomic.Int32 // see State
	answered  atomic.Bool  // the upstream has answered, once
	silent    atomic.Int64 // since when it has not, as Ready has it, in nanoseconds; 0: it has
	counters  counters
	audience  audience
	gauges    gauges
	timeout   atomic.Int64                     // Config.Timeout, as CONFIG SET has it
	keepAlive atomic.Int64                     // Config.TCPKeepAlive, as CONFIG SET has it
	maxMemory atomic.Int64                     // Config.MaxMemoryClients, as CONFIG SET has it
	forgotten atomic.Pointer[limits.GateStats] // what CONFIG RESETSTAT has taken from the gate's counters; or nil

	clientMemory atomic.Int64   // what all sessions have in buffers, in bytes
	easing       atomic.Bool    // it is being made less
	consoles     sync.WaitGroup // commands that Config.Console is at

	// listening guards the following field.
	listening sync.Mutex
	listeners []net.Listener // none while they are closed

	moved chan struct{} // closed when another program has taken over, and this one is to end

	heritage    *predecessor              // whom the server takes over from; nil: nobody, or it has ended. Set by Succeed, before Run
	elsewhere   atomic.Int64              // how many upstream connections that one may have
	successor   atomic.Pointer[successor] // who takes over; nil: nobody
	handingOver sync.Mutex                // held while it is being found out whether it can

	op operation // what the operator has ordered; it has a lock of its own

	posting sync.Mutex // held while something is posted to all loops

	reloading sync.Mutex // held by Reload; no loop waits for it

	// settling guards the following field. It is held for no longer than it takes to set a parameter.
	settling sync.Mutex
	runtime  map[string]bool // parameters that an operator has set since the configuration has, by name

	// Owned by the first worker's loop.
	turn       int // which worker gets the next client
	processes  map[int]*knownProcess
	attending  bool   // somebody waits at the gate
	caller     caller // who is being decided on: in one place, as most who come stay, and leave no garbage behind
	evicting   bool   // idle clients are being looked for
	evictNext  time.Time
	stopAccept []func()
}

// New checks the configuration and opens the listeners; nobody is served before Run. An error is a *ConfigError
// where a setting cannot be used. A limit that the process cannot have is lowered, and the log says to what.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if lanes := limits.MaxLanes(cfg.PoolSize); cfg.Loops > lanes {
		cfg.Log.Warn("loops lowered: each needs an upstream connection", "loops", lanes, "pool-size", cfg.PoolSize)
		cfg.Loops = lanes
	}
	told := cfg
	if err := fitDescriptors(&cfg); err != nil {
		return nil, err
	}
	commands, err := cfg.commands()
	if err != nil {
		return nil, err
	}
	upstream, err := cfg.Upstream.WithTLS(cfg.UpstreamTLS, cfg.Log)
	if err != nil {
		return nil, fileProblem("upstream-tls-", err)
	}
	cfg.Upstream = upstream
	s := &Server{
		cfg: cfg, started: time.Now(), handshakes: newHandshakes(), gate: limits.NewGate(cfg.MaxClients, cfg.LogInterval), runtime: map[string]bool{},
		moved: make(chan struct{}),
	}
	s.current.Store(&told)
	s.protected.Store(cfg.protects())
	s.ledger = limits.NewLedger(cfg.Suspects)
	s.resolver = peer.NewResolver()
	s.guesses = limits.NewGuesses(cfg.AuthDelay)
	s.processes = map[int]*knownProcess{}
	for _, r := range cfg.Limits {
		s.gate.SetRule(r, s.started)
	}
	s.timeout.Store(int64(cfg.Timeout))
	s.maxMemory.Store(cfg.MaxMemoryClients)
	s.learner = newLearner(commands, cfg.Log, s.install)
	s.budget = limits.NewBudget(cfg.PoolSize, cfg.Loops, s.nudge)
	s.primary = multiplex.NewPrimary(multiplex.PrimaryConfig{
		Upstream: cfg.Upstream, Changed: s.follow, LogInterval: cfg.LogInterval, Log: cfg.Log,
	})
	if err := s.primary.Find(); err != nil {
		return nil, &ConfigError{"upstream", cfg.Upstream.String(), err.Error()}
	}
	s.control = multiplex.NewControl(s.primary, s.budget, max(cfg.UpstreamTimeout, connectTime))
	for range cfg.Loops {
		w, err := newWorker(s)
		if err != nil {
			return nil, err
		}
		s.workers = append(s.workers, w)
	}
	if err := s.openCerts(); err != nil {
		return nil, err
	}
	for _, addr := range cfg.Listen {
		ln, socket, err := cfg.open(addr)
		if err != nil {
			s.closeListeners()
			return nil, err
		}
		s.listeners, s.addrs, s.sockets = append(s.listeners, ln), append(s.addrs, ln.Addr()), append(s.sockets, socket)
	}
	s.setKeepAlive(cfg.TCPKeepAlive)
	return s, nil
}

// commands returns the table of commands, with what is refused.
func (c *Config) commands() (*table, error) {
	t := newTable()
	if c.Console != nil {
		t.installConsole()
	}
	err := t.restrict(c.AllowDangerous, c.DenyCommands)
	return t, err
}

// openCerts reads what TLS listeners need.
func (s *Server) openCerts() (err error) {
	if s.cfg.listensTLS() {
		s.certs, err = certs.Open(s.cfg.TLS.Files, s.cfg.TLS.base(), s.cfg.Log)
	}
	return fileProblem("tls-", err)
}

// install hands a table to all loops.
func (s *Server) install(t *table) {
	for _, w := range s.workers {
		w.loop.Post(func() { w.table = t })
	}
}

// nudge has every loop make room, if it can: somebody waits for an upstream connection.
func (s *Server) nudge() {
	for _, w := range s.workers {
		w.pool.Relieve()
	}
}

// follow has every loop give up connections that may not lead to the primary any more.
func (s *Server) follow() {
	for _, w := range s.workers {
		w.loop.Post(w.pool.Follow)
	}
}

// onAll runs f on every loop, soon, and returns what to wait for until it has been run; not on a loop, and not once
// the loops have been told to stop. Of two calls, all loops see the same one first.
func (s *Server) onAll(f func(*worker)) *sync.WaitGroup {
	var running sync.WaitGroup
	s.posting.Lock()
	defer s.posting.Unlock()
	for _, w := range s.workers {
		running.Add(1)
		if !w.loop.Post(func() { defer running.Done(); f(w) }) {
			running.Done()
		}
	}
	return &running
}

// Run serves until ctx is done. Then it accepts nobody any more, answers what it has been sent, closes, and returns
// nil; or an error if that took longer than shutdown-timeout, when it has closed all the same. It is called once.
func (s *Server) Run(ctx context.Context) error {
	var running errgroup.Group
	running.Go(func() error { s.control.Run(); return nil })
	running.Go(func() error { s.resolver.Run(); return nil })
	keeping, stopKeeping := context.WithCancel(context.Background())
	running.Go(func() error { s.primary.Follow(keeping); return nil })
	kept := make(chan struct{})
	go s.keepUntil(keeping, kept)
	for _, w := range s.workers {
		running.Go(func() error { w.run(); return nil })
	}
	first := s.workers[0]
	started := make(chan error, 1)
	first.loop.Post(func() {
		err := s.accept()
		if err == nil {
			first.loop.AfterFunc(time.Second, s.reportRefusals)
			first.pool.Warm()
		}
		started <- err
	})
	err := <-started
	if err == nil {
		s.announce()
		s.phase.Store(phaseServing)
		if s.heritage != nil {
			s.ownPaths()
			running.Go(func() error { s.heritage.follow(); return nil })
		}
		if s.cfg.Serving != nil {
			s.cfg.Serving()
		}
		select {
		case <-ctx.Done():
		case <-s.moved:
		}
		s.phase.Store(phaseStopping)
		s.cfg.Log.Info("stopping", "clients", s.gate.Stats().Open, "shutdown-delay", s.current.Load().ShutdownDelay.String(),
			"shutdown-timeout", s.current.Load().ShutdownTimeout.String())
		s.endPause()
		if s.successor.Load() == nil {
			time.Sleep(s.current.Load().ShutdownDelay) // a second signal ends the process
		}
		err = s.drain()
	}
	if s.heritage != nil {
		s.heritage.line.Close()
	}
	s.closeListeners() // they are, unless the doors could not be opened
	s.handshakes.stop()
	stopKeeping()
	<-kept // it asks the loops
	s.resolver.Stop()
	s.control.Stop()
	for _, w := range s.workers {
		w.loop.Post(w.abandon)
		w.loop.Stop()
	}
	_ = running.Wait() // they return no errors
	s.handshakes.running.Wait()
	s.consoles.Wait()
	s.endHandOver()
	s.tellSuppressed(time.Now().Add(s.cfg.LogInterval))
	st := s.gate.Stats()
	s.cfg.Log.Info("stopped", "clients_served", st.Total, "clients_refused", st.Refused)
	return err
}

func (s *Server) announce() {
	for i, addr := range s.Addrs() {
		encrypted := isTLS(s.cfg.Listen[i])
		s.cfg.Log.Info("listening", "listen", addr.String(), "tls", encrypted)
		if s.protected.Load() && beyondLoopback(addr) && !(encrypted && s.cfg.TLS.AuthClients == "yes") {
			s.cfg.Log.Warn("protected mode is in force, because the proxy holds credentials for its upstream: clients of other hosts are "+
				"refused; see protected-mode", "listen", addr.String())
		}
	}
	s.cfg.Log.Info("redbouncer is ready", "version", s.cfg.Version, "upstream", s.cfg.Upstream.String(),
		"maxclients", s.cfg.MaxClients, "pool-size", s.cfg.PoolSize, "loops", s.cfg.Loops)
}

// drain closes the doors and waits for the sessions to end: for as long as it takes those who fall idle to go in small
// steps, and then for the answers to what the others have in flight.
func (s *Server) drain() error {
	end := time.Now().Add(s.current.Load().ShutdownTimeout)
	spread := min(time.Duration(s.gate.Stats().Open)*stopPace, stopMost, s.current.Load().ShutdownTimeout/2)
	s.sendAway(spread, true)
	time.Sleep(spread)
	var left sync.WaitGroup
	left.Add(len(s.workers))
	for _, w := range s.workers {
		w.loop.Post(func() { w.stop(left.Done) })
	}
	drained := make(chan struct{})
	go waitFor(&left, drained)
	select {
	case <-drained:
		return nil
	case <-time.After(time.Until(end)):
		return errors.New("shutdown-timeout has passed: the clients that were left have been closed")
	}
}

// waitFor closes done when the group is done. It may outlive a drain that took too long, until its loops have
// closed what was left.
func waitFor(group *sync.WaitGroup, done chan<- struct{}) {
	group.Wait()
	close(done)
}

// Stats are the server's counters and gauges.
type Stats struct {
	Clients      int    // connected
	MaxClients   int    // the limit in force
	Upstream     int    // upstream connections open or being opened
	PoolSize     int    // the limit in force
	Lanes        int    // upstream connections that are shared
	Pins         int    // upstream connections that are lent
	IdlePins     int    // upstream connections kept for lending
	InFlight     int    // commands sent upstream whose replies are not complete
	Waiting      int    // sessions and connections that wait for something
	Queued       int    // clients that wait in the queue of a rule
	ClientMemory int64  // what clients have in buffers, in bytes
	Commands     uint64 // that clients have sent since the start
	Admitted     uint64 // clients let in since the start
	Refused      uint64 // clients refused since the start
	Evicted      uint64 // clients closed to make room for others, or because all had too much in buffers
	PoolTimeouts uint64 // commands refused because no upstream connection came free in time
	Lost         uint64 // clients closed because their upstream connection broke
	LostUpstream uint64 // upstream connections that broke
	Failovers    uint64 // how often the primary has become another server
	Sentinels    int    // that are listened to
}

// Stats collects the counters. It may be called from any goroutine, but not from a loop, while Run runs.
func (s *Server) Stats() Stats {
	g := s.gate.Stats()
	st := Stats{
		Clients: g.Open, MaxClients: g.Max, Queued: g.Waiting, ClientMemory: s.clientMemory.Load(), Evicted: s.counters.evicted.Load(), Admitted: g.Total, Refused: g.Refused,
		PoolSize:     s.budget.Size(),
		PoolTimeouts: s.counters.poolTimeouts.Load(), Lost: s.counters.lost.Load(),
	}
	primary := s.primary.Report()
	st.Failovers, st.Sentinels = primary.Failovers, primary.Heard
	for _, k := range []limits.Kind{limits.Lane, limits.Pin, limits.Control} {
		st.Upstream += s.budget.Open(k)
		st.Waiting += s.budget.Waiting(k)
	}
	for _, w := range s.workers {
		st.LostUpstream += w.pool.Lost()
		got, commands := make(chan multiplex.PoolStats, 1), uint64(0)
		if !w.loop.Post(func() { commands = w.commands; got <- w.pool.Stats() }) {
			st.Commands += w.lastCount()
			continue
		}
		select {
		case p := <-got:
			st.Commands += commands
			st.Lanes += p.Lanes
			st.Pins += p.Pins
			st.IdlePins += p.Idle
			st.InFlight += p.InFlight + p.Resend
			st.Waiting += p.Waiting
		case <-w.done:
			st.Commands += w.lastCount()
		}
	}
	return st
}

// lastCount is how many commands a worker has been sent whose loop has ended; before that, nobody may ask but the loop.
func (w *worker) lastCount() uint64 {
	select {
	case <-w.done:
		return w.commands
	default:
		return 0
	}
}
