package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// actAsProgram makes the test binary be the program, for tests that need a process of its own.
const actAsProgram = "ACT_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(actAsProgram) != "" {
		main()
	}
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "REDBOUNCER_") && !strings.HasPrefix(name, "REDBOUNCER_TEST_") {
			_ = os.Unsetenv(name) // a developer's own settings are no part of the tests
		}
	}
	os.Exit(m.Run())
}

// outcome is what a run of the program in this process left behind.
type outcome struct {
	status         int
	stdout, stderr string
}

func runProgram(args ...string) outcome {
	var stdout, stderr bytes.Buffer
	status := run(args, &stdout, &stderr)
	return outcome{status, stdout.String(), stderr.String()}
}

// writeFile returns the name of a new configuration file.
func writeFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "redbouncer.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
