package admin

import (
	"embed"
	"net/http"
)

// The page at /: HTML, a style and a script, as they are in the directory page. It asks nobody but this server for anything.

//go:embed page
var pageFiles embed.FS

const javaScript = "text/javascript; charset=utf-8"

// file returns a handler that serves a file of the page.
func file(name, contentType string) handler {
	content, err := pageFiles.ReadFile("page/" + name)
	if err != nil {
		panic("bug: the page has no " + name)
	}
	return func(w http.ResponseWriter, _ *http.Request, _ Who) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(content) // who has gone does not want it
	}
}

// handlePage adds the page, and what it is told, to what a server serves.
func handlePage(mux *http.ServeMux, a *api) {
	for path, h := range map[string]handler{
		"GET /{$}":          file("index.html", "text/html; charset=utf-8"),
		"GET /page.css":     file("page.css", "text/css; charset=utf-8"),
		"GET /page.js":      file("page.js", javaScript),
		"GET /dom.js":       file("dom.js", javaScript),
		"GET /chart.js":     file("chart.js", javaScript),
		"GET /sources.js":   file("sources.js", javaScript),
		"GET /icon.svg":     file("icon.svg", "image/svg+xml"),
		"GET /api/overview": a.overview,
		"GET /api/events":   a.stream.serve,
		"GET /api/{what}":   a.show,
		"POST /api/{verb}":  a.change,
	} {
		mux.HandleFunc(path, a.guard(h))
	}
}
