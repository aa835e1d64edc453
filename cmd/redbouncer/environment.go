package main

import (
	"os"
	"strings"

	"github.com/alecthomas/kong"
)

// environmentName is the name of a setting in the environment.
func environmentName(name string) string {
	return "REDBOUNCER_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// fromEnvironment resolves settings from the environment.
func fromEnvironment(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if g, ok := environment(flag); ok && isSetting(flag) {
		return g, nil
	}
	return nil, nil
}

// environment is what the environment says of a setting. An empty variable says nothing: templates leave it
// behind where they had nothing to fill in.
func environment(flag *kong.Flag) (given, bool) {
	name := environmentName(flag.Name)
	text := os.Getenv(name)
	return given{words: []string{text}, origin: name}, text != ""
}

// strayEnvironment lists the variables that begin like a setting and are none; most likely they are misspelled.
// That is no error: Kubernetes sets some of these in every pod if there is a service called redbouncer.
func strayEnvironment(table []*kong.Flag) []string {
	known := map[string]bool{}
	for _, flag := range table {
		known[environmentName(flag.Name)] = true
	}
	var stray []string
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, "REDBOUNCER_") || known[name] ||
			strings.HasPrefix(name, "REDBOUNCER_PORT") || strings.HasPrefix(name, "REDBOUNCER_SERVICE_") {
			continue
		}
		stray = append(stray, name)
	}
	return stray
}
