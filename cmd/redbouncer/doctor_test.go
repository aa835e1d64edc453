package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/cmd/redbouncer/doctor"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

func TestDoctorTakesItsURLFromTheCommandLineOrTheEnvironment(t *testing.T) {
	s := proxytest.Redis(t, "--requirepass", "hush-hush")
	url := strings.Replace(s.URL(), "://", "://:hush-hush@", 1)
	check := func(args ...string) {
		t.Helper()
		o := runProgram(append([]string{"doctor", "--for", "1", "--json"}, args...)...)
		var r doctor.Report
		if err := json.Unmarshal([]byte(o.stdout), &r); err != nil {
			t.Fatalf("%v: %+v", err, o)
		}
		if o.status != 0 || r.Status != "healthy" || !strings.HasPrefix(r.Target, "redis://:xxxxx@") {
			t.Errorf("%+v", o)
		}
		if strings.Contains(o.stdout+o.stderr, "hush") {
			t.Errorf("the password is shown: %+v", o)
		}
	}
	check(url)
	t.Setenv("REDBOUNCER_UPSTREAM", url)
	check()
}

func TestDoctorsExitStatusIsForMonitoring(t *testing.T) {
	for _, try := range []struct {
		args   string
		status int
		says   string
	}{
		{"--size pods=3 --maxclients 100", 0, "HEALTHY"},
		{"--size pods=9,threads=7 --maxclients 100", 1, "WARNING"},
		{"--size pods=30,threads=7 --maxclients 100", 2, "CRITICAL"},
		{"redis://user:hush@127.0.0.1:1 --for 1", 3, "cannot be reached"},
		{"", 3, "say whom to look at"},
		{"--bogus", 3, "unknown flag --bogus"},
		{"--for soon redis://127.0.0.1:1", 3, "want a number of seconds"},
		{"http://user:hush@127.0.0.1", 3, "the URL cannot be read"},
		{"redis://user:hu/sh@127.0.0.1 --for 1", 3, "the URL cannot be read"},
	} {
		o := runProgram(append([]string{"doctor"}, strings.Fields(try.args)...)...)
		if text := o.stdout + o.stderr; o.status != try.status || !strings.Contains(text, try.says) || strings.Contains(text, "hush") {
			t.Errorf("%s: %+v", try.args, o)
		}
	}
}

func TestDoctorWritesNoColourUnlessSomebodyReads(t *testing.T) {
	o := runProgram("doctor", "--size", "pods=3", "--maxclients", "100")
	if strings.Contains(o.stdout, "\x1b") {
		t.Errorf("%q", o.stdout)
	}
}
