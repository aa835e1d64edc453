package proxytest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A Page is a page of the manual, whose tables a test compares with what the program has. Rows are written by hand: the
// cells that the program knows are checked, the others are the writer's.
type Page struct {
	Name string // from the top of the module: docs/settings.md
	rows []manualRow
}

// manualRow is a row of a table.
type manualRow struct {
	section string // the heading above it
	first   string // the heading of the table's first column
	line    int
	cells   []string
}

// A Fact is a row as it has to be. The first cell is what the row is about. A cell that is Prose is for the writer.
type Fact []string

// Prose stands for words that no program knows. They must not be empty.
const Prose = "..."

// Top is the directory of the module.
func Top(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	for err == nil {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			return dir
		}
		if filepath.Dir(dir) == dir {
			break
		}
		dir = filepath.Dir(dir)
	}
	t.Fatalf("no go.mod above the test (%v)", err)
	return ""
}

// Manual reads a page.
func Manual(t testing.TB, name string) *Page {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(Top(t), filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	p := &Page{Name: name}
	p.read(string(text))
	if len(p.rows) == 0 {
		t.Fatalf("%s has no table", name)
	}
	return p
}

// bar separates cells; in a cell it is written with a backslash.
var bar = regexp.MustCompile(`[^\\]\|`)

func (p *Page) read(text string) {
	section, first, fenced := "", "", false
	for i, line := range strings.Split(text, "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
		case fenced:
		case strings.HasPrefix(line, "#"):
			section, first = strings.Trim(line, "# `"), ""
		case !strings.HasPrefix(line, "|"):
			first = ""
		case strings.HasPrefix(line, "|---"):
		case first == "":
			first = cellsOf(line)[0]
		default:
			p.rows = append(p.rows, manualRow{section, first, i + 1, cellsOf(line)})
		}
	}
}

func cellsOf(line string) (cells []string) {
	line = strings.TrimPrefix(strings.TrimSpace(line), "|")
	for {
		at := bar.FindStringIndex(line)
		if at == nil {
			return cells
		}
		cells = append(cells, strings.TrimSpace(line[:at[1]-1]))
		line = line[at[1]:]
	}
}

// Has compares the tables whose first column is headed so with the facts: those in the section, or all of the page if that is
// "". A fact without a row is reported with the row to add, a row without a fact with its line.
func (p *Page) Has(t testing.TB, section, first string, facts []Fact) {
	t.Helper()
	if len(facts) == 0 {
		t.Fatalf("%s: nothing to compare the table of %s with", p.Name, first)
	}
	where := p.Name
	if section != "" {
		where += ", section " + section
	}
	var seen []string
	for _, row := range p.rows {
		if row.first != first || section != "" && row.section != section {
			continue
		}
		name := row.cells[0]
		i := slices.IndexFunc(facts, func(f Fact) bool { return f[0] == name })
		switch {
		case i < 0:
			t.Errorf("%s:%d: %s %s does not exist; take the row out", p.Name, row.line, first, name)
		case slices.Contains(seen, name):
			t.Errorf("%s:%d: %s %s has another row already", p.Name, row.line, first, name)
		default:
			for _, wrong := range facts[i].against(row.cells) {
				t.Errorf("%s:%d: %s %s: %s", p.Name, row.line, first, name, wrong)
			}
		}
		seen = append(seen, name)
	}
	for _, f := range facts {
		if !slices.Contains(seen, f[0]) {
			t.Errorf("%s: %s %s has no row; add one to the table headed %q, with words for %s:\n| %s |", where, first, f[0], first, Prose,
				strings.Join(f, " | "))
		}
	}
}

// against says in what a row is not as the fact has it.
func (f Fact) against(cells []string) (wrong []string) {
	if len(cells) != len(f) {
		return []string{fmt.Sprintf("the row has %d cells, want %d: | %s |", len(cells), len(f), strings.Join(f, " | "))}
	}
	for i, want := range f {
		switch {
		case want == Prose && cells[i] == "":
			wrong = append(wrong, fmt.Sprintf("cell %d is empty", i+1))
		case want != Prose && cells[i] != want:
			wrong = append(wrong, fmt.Sprintf("cell %d is %s, want %s", i+1, cells[i], want))
		}
	}
	return wrong
}

// Code writes a word as the manual does.
func Code(word string) string {
	if word == "" {
		return "-"
	}
	return "`" + strings.ReplaceAll(word, "|", `\|`) + "`"
}

// Sections are the headings above tables whose first column is headed so.
func (p *Page) Sections(first string) (sections []string) {
	for _, row := range p.rows {
		if row.first == first && !slices.Contains(sections, row.section) {
			sections = append(sections, row.section)
		}
	}
	return sections
}
