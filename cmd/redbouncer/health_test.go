package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// serveProbes answers at an address until the test ends: /healthz with ok, /readyz with a status and a text.
func serveProbes(t *testing.T, network, addr string, status int, text string) net.Listener {
	t.Helper()
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, text, status) })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: patience}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return ln
}

func TestHealthAsksTheProxyThatHasTheSameSettings(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "http.sock")
	serveProbes(t, "unix", socket, 503, "the proxy is draining")
	ln := serveProbes(t, "tcp", "127.0.0.1:0", 200, "ok, paused")
	port := ln.Addr().(*net.TCPAddr).Port
	anywhere := fmt.Sprintf(":%d", port)
	spoiled := writeFile(t, fmt.Sprintf("http-listen: %q\nmaxclients: none\nno-such-setting: 1\n", anywhere))
	for _, c := range []struct {
		args, environment string
		status            int
		says              string
	}{
		{"--http-listen " + ln.Addr().String(), "", exitOK, "ok\n"},
		{"--http-listen " + anywhere, "", exitOK, "ok\n"},
		{"", fmt.Sprintf("0.0.0.0:%d", port), exitOK, "ok\n"},
		{"--ready", anywhere, exitOK, "ok, paused\n"},
		{"--ready --config " + spoiled, "", exitOK, "ok, paused\n"}, // the proxy goes on with what it has read before
		{"--http-listen unix:" + socket, "", exitOK, "ok\n"},
		{"--ready", "unix:" + socket, exitFailed, "redbouncer: http-listen unix:" + socket + " answers /readyz with 503: the proxy is draining\n"},
	} {
		t.Run(c.args+c.environment, func(t *testing.T) {
			t.Setenv("REDBOUNCER_HTTP_LISTEN", c.environment)
			t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
			got := runProgram(append([]string{"health"}, strings.Fields(c.args)...)...)
			if got.status != c.status || got.stdout+got.stderr != c.says {
				t.Errorf("%+v, want %d, %q", got, c.status, c.says)
			}
		})
	}
}

func TestHealthSaysWhyNobodyCanBeAsked(t *testing.T) {
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := gone.Addr().String()
	_ = gone.Close()
	for _, c := range []struct{ args, says string }{
		{"--http-listen none", `http-listen: "none", from --http-listen, is not usable: health asks the proxy over HTTP; want host:port or unix:/path, for serve too`},
		{"--http-listen 127.0.0.1:0", "want one that health can know"},
		{"--http-listen 9121", "want host:port, unix:/path or none"},
		{"--http-listen=", "want host:port, unix:/path or none"},
		{"--http-listen " + addr, "connection refused; does redbouncer run with these settings?"},
		{"--http-listen unix:/no/such.sock", "no such file or directory; does redbouncer run"},
		{"--config /no/such.yaml", "cannot read it: no such file or directory"},
		{"--config " + writeFile(t, "a: ["), "not YAML"},
		{"--config " + writeFile(t, "http-listen: {}"), "want a single value"},
	} {
		got := runProgram(append([]string{"health"}, strings.Fields(c.args)...)...)
		if got.status != exitFailed || got.stdout != "" || !strings.Contains(got.stderr, c.says) || strings.Count(got.stderr, "\n") != 1 {
			t.Errorf("redbouncer health %s: %+v, want %d, %q", c.args, got, exitFailed, c.says)
		}
	}
}

// The process may hang with its listener open, which the kernel goes on to accept for.
func TestHealthDoesNotWaitForAProxyThatHangs(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	began := time.Now()
	got := runProgram("health", "--http-listen", ln.Addr().String())
	if got.status != exitFailed || !strings.Contains(got.stderr, "does not answer /healthz within 3s") || time.Since(began) > patience {
		t.Errorf("after %s: %+v", time.Since(began), got)
	}
}

func TestHealthOfTheProgramItself(t *testing.T) {
	p := startProgram(t, "serve", "--upstream", "embedded", "--listen", "127.0.0.1:0")
	addr := p.logged("metrics and probes")["http-listen"].(string)
	for _, args := range [][]string{{"health"}, {"health", "--ready"}} {
		if got := runProgram(append(args, "--http-listen", addr)...); got != (outcome{exitOK, "ok\n", ""}) {
			t.Errorf("%v: %+v", args, got)
		}
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if status, rest := p.wait(); status != exitOK {
		t.Errorf("status %d, log\n%s", status, rest)
	}
	if got := runProgram("health", "--http-listen", addr); got.status != exitFailed {
		t.Errorf("of a proxy that has ended: %+v", got)
	}
}

func TestTheRowsOfHealthAreThoseOfServe(t *testing.T) {
	inv, err := parse([]string{"serve", base}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	asked, err := parse([]string{"health"}, io.Discard)
	if err != nil || len(asked.table) == 0 {
		t.Fatalf("%d rows, %v", len(asked.table), err)
	}
	for _, flag := range asked.table {
		for _, row := range inv.table {
			if row.Name == flag.Name && (row.Default != flag.Default || row.PlaceHolder != flag.PlaceHolder || row.Target.Type() != flag.Target.Type()) {
				t.Errorf("%s differs: %v and %v", flag.Name, row, flag)
			}
		}
	}
}
