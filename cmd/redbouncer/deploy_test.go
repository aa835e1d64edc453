package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// What is under deploy/ is for people to take over, so that it has to be right. Here the program itself reads the settings in
// it, and what has to agree is compared.

const deployDir = "../../deploy/"

// tree is a YAML document of any shape.
type tree struct{ at any }

// get follows keys down from a mapping; what is not there is an empty tree.
func (n tree) get(keys ...string) tree {
	for _, key := range keys {
		m, _ := n.at.(map[string]any)
		n = tree{m[key]}
	}
	return n
}

func (n tree) list() []tree {
	items, _ := n.at.([]any)
	out := make([]tree, len(items))
	for i, item := range items {
		out[i] = tree{item}
	}
	return out
}

func (n tree) String() string {
	if n.at == nil {
		return ""
	}
	return fmt.Sprint(n.at)
}

// documents returns the YAML documents of a file under deploy/.
func documents(t *testing.T, name string) []tree {
	t.Helper()
	f, err := os.Open(deployDir + name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var out []tree
	for decoder := yaml.NewDecoder(f); ; {
		var at any
		switch err := decoder.Decode(&at); {
		case errors.Is(err, io.EOF) && len(out) > 0:
			return out
		case err != nil:
			t.Fatalf("%s: %v", name, err)
		}
		out = append(out, tree{at})
	}
}

// ofKind returns the only object of a kind among documents.
func ofKind(t *testing.T, docs []tree, kinds ...string) tree {
	t.Helper()
	var found []tree
	for _, doc := range docs {
		if slices.Contains(kinds, doc.get("kind").String()) {
			found = append(found, doc)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d objects of %v, want 1", len(found), kinds)
	}
	return found[0]
}

func TestEveryYAMLAndJSONUnderDeployCanBeRead(t *testing.T) {
	read := 0
	err := filepath.WalkDir(deployDir, func(path string, entry fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, deployDir)
		switch {
		case err != nil || entry.IsDir() || strings.Contains(name, "/templates/"): // templates are not YAML
			return err
		case filepath.Ext(path) == ".yaml" || filepath.Ext(path) == ".yml":
			documents(t, name)
			read++
		case filepath.Ext(path) == ".json":
			text, err := os.ReadFile(path)
			if err != nil || !json.Valid(text) {
				t.Errorf("%s is not JSON: %v", name, err)
			}
			read++
		}
		return nil
	})
	if err != nil || read < 10 {
		t.Errorf("%d files have been read: %v", read, err)
	}
}

// container is how the program is run in a container.
type container struct {
	args  []string
	env   map[string]string
	file  string // the text of the configuration file
	ports map[string]string
}

// image returns what the Dockerfile says of every container.
func image(t *testing.T) container {
	t.Helper()
	text, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	c := container{env: map[string]string{}, ports: map[string]string{}}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case words[0] == "ENV":
			for _, word := range words[1:] {
				name, value, _ := strings.Cut(word, "=")
				c.env[name] = value
			}
		case words[0] == "EXPOSE":
			for _, port := range words[1:] {
				c.ports[port] = port
			}
		case words[0] == "CMD":
			c.args = strings.Split(strings.Trim(words[1], `[]"`), `","`)
		}
	}
	return c
}

// settings returns the settings that the program has in the container, by the program's own reading.
func (c container) settings(t *testing.T) *settings {
	t.Helper()
	for name, value := range c.env {
		t.Setenv(name, value)
	}
	args := slices.Clone(c.args)
	for i := range args {
		if strings.HasPrefix(args[i], "/etc/redbouncer/") {
			args[i] = writeFile(t, c.file)
		}
	}
	inv, err := parse(args, io.Discard)
	if err != nil {
		t.Fatalf("%v: %v", c.args, err)
	}
	for _, name := range inv.stray {
		if c.env[name] != "" {
			t.Errorf("%s is not a setting", name)
		}
	}
	return inv.settings
}

// grace is how much longer than its own end a container is given.
const grace = 5 * time.Second

// pod reads how a workload runs the program; secrets and files come from the documents beside it.
func pod(t *testing.T, docs []tree) (container, tree) {
	t.Helper()
	spec := ofKind(t, docs, "Deployment", "DaemonSet").get("spec", "template", "spec")
	c := image(t)
	c.file = ofKind(t, docs, "ConfigMap").get("data", "redbouncer.yaml").String()
	for _, one := range append(spec.get("containers").list(), spec.get("initContainers").list()...) {
		if one.get("name").String() != "redbouncer" {
			continue
		}
		c.args = nil
		for _, arg := range one.get("args").list() {
			c.args = append(c.args, arg.String())
		}
		for _, env := range one.get("env").list() {
			value := env.get("value").String()
			if key := env.get("valueFrom", "secretKeyRef", "key").String(); key != "" {
				value = ofKind(t, docs, "Secret").get("stringData", key).String()
			}
			c.env[env.get("name").String()] = value
		}
		c.ports = map[string]string{}
		for _, port := range one.get("ports").list() {
			c.ports[port.get("name").String()] = port.get("containerPort").String()
		}
		for _, probe := range []string{"startupProbe", "readinessProbe", "livenessProbe"} {
			if port := one.get(probe, "httpGet", "port").String(); c.ports[port] != "9121" {
				t.Errorf("the %s asks the port %q", probe, port)
			}
		}
		return c, spec
	}
	t.Fatal("there is no container redbouncer")
	return c, spec
}

func TestTheManifestsRunTheProgramAsItWantsToBe(t *testing.T) {
	for _, name := range []string{"central", "node", "sidecar"} {
		t.Run(name, func(t *testing.T) {
			docs := documents(t, "kubernetes/"+name+".yaml")
			c, spec := pod(t, docs)
			s := c.settings(t)
			var given int
			if _, err := fmt.Sscan(spec.get("terminationGracePeriodSeconds").String(), &given); err != nil {
				t.Fatal(err)
			}
			need := time.Duration(s.ShutdownDelay.is) + time.Duration(s.ShutdownTimeout.is) + grace
			if given := time.Duration(given) * time.Second; given < need {
				t.Errorf("it is given %s to end, and needs %s", given, need)
			}
			if !strings.HasSuffix(string(s.HTTPListen.is), ":9121") {
				t.Errorf("http-listen is %s", s.HTTPListen.is)
			}
			if name == "sidecar" {
				return // the application knows the address
			}
			port := ofKind(t, docs, "Service").get("spec", "ports").list()[0].get("targetPort").String()
			if at := s.Listen.is[0]; c.ports[port] == "" || !strings.HasSuffix(at, ":"+c.ports[port]) {
				t.Errorf("the Service leads to the port %s (%s), listen is %s", port, c.ports[port], at)
			}
		})
	}
}

func TestTheImageServesWhatItExposes(t *testing.T) {
	c := image(t)
	c.env["REDBOUNCER_UPSTREAM"] = "embedded"
	s := c.settings(t)
	if c.ports["6380"] == "" || s.Listen.is[0] != ":6380" || c.ports["9121"] == "" || s.HTTPListen.is != ":9121" {
		t.Errorf("it exposes %v and listens at %v and %v", c.ports, s.Listen.is, s.HTTPListen.is)
	}
}

func TestTheSettingsOfTheChartAreSettings(t *testing.T) {
	for _, name := range []string{"values.yaml", "ci/full-values.yaml"} {
		text, err := yaml.Marshal(documents(t, "helm/redbouncer/"+name)[0].get("settings").at)
		if err != nil {
			t.Fatal(err)
		}
		if got := runProgram("check", base, "--config", writeFile(t, string(text))); got.status != exitOK {
			t.Errorf("%s: %s", name, got.stderr)
		}
	}
}

func TestTheCompositionRunsTheProgramAsItWantsToBe(t *testing.T) {
	c := image(t)
	service := documents(t, "compose/compose.yaml")[0].get("services", "redbouncer")
	environment, _ := service.get("environment").at.(map[string]any)
	for name, value := range environment {
		c.env[name] = fmt.Sprint(value)
	}
	s := c.settings(t)
	stop, err := time.ParseDuration(service.get("stop_grace_period").String())
	if need := time.Duration(s.ShutdownDelay.is) + time.Duration(s.ShutdownTimeout.is) + grace; err != nil || stop < need {
		t.Errorf("it is given %s to end, and needs %s; %v", stop, need, err)
	}
	for _, target := range documents(t, "compose/prometheus.yaml")[0].get("scrape_configs").list()[0].get("static_configs").list() {
		if at := target.get("targets").list()[0].String(); at != "redbouncer"+string(s.HTTPListen.is) {
			t.Errorf("Prometheus asks %s, http-listen is %s", at, s.HTTPListen.is)
		}
	}
}

var execStart = regexp.MustCompile(`(?m)^ExecStart=\S+/redbouncer (.*)$`)

func TestTheUnitsCommandIsOneOfTheProgram(t *testing.T) {
	unit, err := os.ReadFile(deployDir + "systemd/redbouncer.service")
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(deployDir + "systemd/redbouncer.yaml")
	if err != nil {
		t.Fatal(err)
	}
	command := execStart.FindStringSubmatch(string(unit))
	if command == nil {
		t.Fatal("the unit starts something else")
	}
	secrets, err := os.ReadFile(deployDir + "systemd/redbouncer.env")
	if err != nil {
		t.Fatal(err)
	}
	name, value, _ := strings.Cut(strings.TrimSpace(string(secrets)), "=")
	s := container{args: strings.Fields(command[1]), file: string(file), env: map[string]string{name: value}}.settings(t)
	var given int
	stop := regexp.MustCompile(`(?m)^TimeoutStopSec=(\d+)$`).FindStringSubmatch(string(unit))
	if _, err := fmt.Sscan(stop[1], &given); err != nil {
		t.Fatal(err)
	}
	need := time.Duration(s.ShutdownDelay.is) + time.Duration(s.ShutdownTimeout.is) + grace
	if given := time.Duration(given) * time.Second; given < need {
		t.Errorf("it is given %s to end, and needs %s", given, need)
	}
	var files int
	limit := regexp.MustCompile(`(?m)^LimitNOFILE=(\d+)$`).FindStringSubmatch(string(unit))
	if _, err := fmt.Sscan(limit[1], &files); err != nil || files < int(s.MaxClients.is)+int(s.PoolSize.is)+100 {
		t.Errorf("%d files are too few for %d clients", files, s.MaxClients.is)
	}
}
