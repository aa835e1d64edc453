package main

import (
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// manualPages are all pages of the module, by their paths.
func manualPages(t *testing.T) map[string]string {
	t.Helper()
	pages := map[string]string{}
	top := proxytest.Top(t)
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != top && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "node_modules"):
			return filepath.SkipDir
		case filepath.Ext(path) != ".md":
			return nil
		}
		text, err := os.ReadFile(path)
		pages[path] = string(text)
		return err
	})
	if err != nil || len(pages) < 10 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	return pages
}

var (
	pageLink   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	fencedText = regexp.MustCompile("(?ms)^ *```.*?\n *```$")
	codeText   = regexp.MustCompile("`[^`\n]*`")
	heading    = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	linkText   = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
)

// anchors are what a link to a page may end in: each heading in lower case, with dashes for spaces, letters, digits and dashes only.
func anchors(text string) (all []string) {
	for _, m := range heading.FindAllStringSubmatch(fencedText.ReplaceAllString(text, ""), -1) {
		title := linkText.ReplaceAllString(m[1], "$1")
		all = append(all, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, strings.TrimSpace(title)))
	}
	return all
}

func TestEveryLinkInTheManualLeadsSomewhere(t *testing.T) {
	pages, found := manualPages(t), 0
	for path, text := range pages {
		text = codeText.ReplaceAllString(fencedText.ReplaceAllString(text, ""), "")
		for _, m := range pageLink.FindAllStringSubmatch(text, -1) {
			to, err := url.Parse(m[1])
			if err != nil {
				t.Errorf("%s: %v", path, err)
				continue
			}
			if to.Scheme != "" {
				continue // another site's
			}
			found++
			target := path
			if to.Path != "" {
				target = filepath.Join(filepath.Dir(path), filepath.FromSlash(to.Path))
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: the link %s leads nowhere: %v", path, m[1], err)
			} else if to.Fragment != "" && !slices.Contains(anchors(pages[target]), to.Fragment) {
				t.Errorf("%s: %s has no heading for the link %s; it has %s", path, target, m[1], strings.Join(anchors(pages[target]), ", "))
			}
		}
	}
	if found == 0 {
		t.Error("there is no link")
	}
}

func TestEveryPageOfTheManualIsInItsIndex(t *testing.T) {
	docs := filepath.Join(proxytest.Top(t), "docs")
	pages := manualPages(t)
	index := pages[filepath.Join(docs, "README.md")]
	for path := range pages {
		name, err := filepath.Rel(docs, path)
		if err == nil && !strings.HasPrefix(name, "..") && name != "README.md" && !strings.Contains(index, "]("+filepath.ToSlash(name)+")") {
			t.Errorf("docs/README.md does not link to %s", name)
		}
	}
}
