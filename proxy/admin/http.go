package admin

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
)

const (
	// probeTimeout bounds what /readyz waits for the upstream.
	probeTimeout = 2 * time.Second
	// probeAge is how long the outcome is good for: however often it is asked for, the upstream is asked once a second.
	probeAge = time.Second
	// scrapesAtOnce bounds the scrapes that are under way.
	scrapesAtOnce = 4
	// stopTimeout bounds how long an answer that is under way may take at the end.
	stopTimeout = time.Second
)

// probe knows whether the proxy is ready.
type probe struct {
	console *Console

	// mu guards the following fields, and has one ask at a time.
	mu    sync.Mutex
	asked time.Time
	err   error
}

// ready returns why clients are not served; nil: they are.
func (p *probe) ready() error {
	b := p.console.backends.Load()
	if b == nil {
		return fmt.Errorf("the proxy is starting")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch state := b.Proxy.State(); {
	case state == "draining" || state == "stopping": // at once: somebody waits for this to be noticed
		return b.Proxy.Ready(context.Background())
	case time.Since(p.asked) < probeAge:
		return p.err
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	p.err, p.asked = b.Proxy.Ready(ctx), time.Now()
	return p.err
}

// text is what is said when clients are served: also if they have to wait a little, as nobody else could serve them.
func (p *probe) text() string {
	if state := p.console.backends.Load().Proxy.State(); state != "serving" {
		return "ok, " + state
	}
	return "ok"
}

// apart gathers metrics whose names are apart in OpenMetrics too. There a counter goes without its _total, by which
// go_memstats_alloc_bytes_total would have the name of the gauge, and a strict reader takes nothing of the page.
type apart struct{ prometheus.Gatherer }

// Gather implements prometheus.Gatherer.
func (a apart) Gather() ([]*dto.MetricFamily, error) {
	families, err := a.Gatherer.Gather()
	return slices.DeleteFunc(families, func(f *dto.MetricFamily) bool {
		return f.GetName() == "go_memstats_alloc_bytes_total"
	}), err
}

// web serves the page, metrics and probes.
type web struct {
	// Static after construction.
	server *http.Server
	ln     net.Listener
	api    *api
	cancel context.CancelFunc
}

// newWeb returns what serves on a listener. Each of the server's timeouts bounds somebody who trickles.
func newWeb(console *Console, ln net.Listener, log *slog.Logger) *web {
	ctx, cancel := context.WithCancel(context.Background())
	w := &web{
		ln: &boundedListener{Listener: ln}, cancel: cancel,
		api: &api{console: console, access: newAccess(console, ln.Addr()), origin: http.NewCrossOriginProtection(), ctx: ctx},
	}
	w.api.stream = &stream{api: w.api, over: make(chan struct{}), watchers: map[chan []byte]struct{}{}}
	mux := http.NewServeMux()
	handleMonitoring(mux, console, log)
	handlePage(mux, w.api)
	w.server = &http.Server{
		Handler: mux, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
	}
	return w
}

// handleMonitoring adds metrics and probes, which everybody may ask for who can reach the listener.
func handleMonitoring(mux *http.ServeMux, console *Console, log *slog.Logger) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &collector{console},
	)
	ready := &probe{console: console}
	mux.Handle("GET /metrics", promhttp.HandlerFor(apart{registry}, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn), MaxRequestsInFlight: scrapesAtOnce,
		Timeout: 2 * consoleTimeout, EnableOpenMetrics: true, // for those who ask for it
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, ready.text())
	})
}

// serve ends with stop.
func (w *web) serve() error {
	var streaming sync.WaitGroup
	streaming.Go(w.stream)
	err := w.server.Serve(w.ln)
	streaming.Wait()
	return err
}

// stream ends with stop.
func (w *web) stream() { w.api.stream.run(w.api.ctx) }

// handOver closes the connections as they fall idle, and those that watch: who asks again is answered by the program that has the
// listener now. Otherwise the page and Prometheus would be shown this one, which few clients are left to, until it ends. It is
// called once.
func (w *web) handOver() {
	close(w.api.stream.over)
	w.server.SetKeepAlivesEnabled(false)
}

// stop closes the listener and the connections: at once those that are idle or watched, the others when they have been answered,
// within a second.
func (w *web) stop() {
	w.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := w.server.Shutdown(ctx); err != nil {
		_ = w.server.Close()
	}
	_ = w.ln.Close() // if it has never been served
}
