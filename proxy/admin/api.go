package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The console over HTTP, as JSON: GET /api/ and the word behind SHOW for what is to be seen, POST /api/ and the words of a verb, in
// lower case and with a dash between them, for what changes something. The verbs, and who may use them, are the console's. What
// each field means is in docs/api.md.
//
// Another site may have a browser send requests here, with the name and the password that the browser knows. It may read nothing
// of what we answer, as we do not say that it may; and it changes nothing: a change is a POST from this origin, in JSON.

const (
	maxBody     = 64 << 10 // bytes of a request
	mostSources = 500      // that the overview shows
	mostWaiting = 100      // that the overview shows of the queue
)

// api answers under /api/.
type api struct {
	// Static after construction.
	console *Console
	access  *access
	origin  *http.CrossOriginProtection
	stream  *stream
	ctx     context.Context // ends with the server
}

// handler is what is done for somebody who may look.
type handler func(w http.ResponseWriter, r *http.Request, who Who)

// guard lets those pass who may look.
func (a *api) guard(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		protect(w.Header())
		if site := r.Header.Get("Sec-Fetch-Site"); strings.HasPrefix(r.URL.Path, "/api/") && (site == "cross-site" || site == "same-site") {
			a.fail(w, http.StatusForbidden, "this is not for pages of other origins")
			return
		}
		who, d := a.access.who(r)
		if d != nil {
			if d.ask {
				w.Header().Set("WWW-Authenticate", `Basic realm="redbouncer", charset="UTF-8"`)
			}
			a.fail(w, d.status, d.text)
			return
		}
		h(w, r, who)
	}
}

// protect sets the headers by which a browser keeps other pages out. Scripts and styles come from here only, and none are in the
// page itself.
func protect(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "+
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

// show answers GET /api/{what}.
func (a *api) show(w http.ResponseWriter, r *http.Request, who Who) {
	words := "SHOW " + strings.ToUpper(r.PathValue("what"))
	v := exactVerb(words)
	if v == nil {
		a.fail(w, http.StatusNotFound, fmt.Sprintf("there is no /api/%s: see docs/api.md", r.PathValue("what")))
		return
	}
	args, most, err := queryArgs(words, r)
	if err != nil {
		a.fail(w, http.StatusBadRequest, err.Error())
		return
	}
	_, answer, err := a.console.carryOut(r.Context(), append(strings.Fields(words), args...), who)
	if err != nil {
		a.failed(w, err)
		return
	}
	if t, ok := answer.(*table); ok {
		w.Header().Set("Redbouncer-Rows", strconv.Itoa(len(t.rows)))
		answer = t.first(most)
	}
	a.reply(w, http.StatusOK, answer)
}

// queryArgs makes a verb's arguments of what stands behind the question mark. Most is how many rows are wanted; 0: all.
func queryArgs(words string, r *http.Request) (args []string, most int, err error) {
	q := r.URL.Query()
	if q.Has("most") {
		if most, err = strconv.Atoi(q.Get("most")); err != nil || most < 1 {
			return nil, 0, fmt.Errorf("most=%s: want the number of rows, at least 1", q.Get("most"))
		}
		q.Del("most")
	}
	only := map[string]string{"SHOW SOURCES": "kind", "SHOW CONFIG": "pattern"}[words]
	for name, values := range q {
		switch {
		case words == "SHOW CLIENTS":
			for _, value := range values {
				args = append(args, name, value)
			}
		case name != only || len(values) != 1:
			return nil, 0, fmt.Errorf("%s is not known here, or given twice: see docs/api.md", name)
		default:
			args = []string{values[0]}
		}
	}
	return args, most, nil
}

// exactVerb returns the verb with these words; nil: there is none.
func exactVerb(words string) *verb {
	i := slices.IndexFunc(verbs, func(v verb) bool { return v.words == words })
	if i < 0 {
		return nil
	}
	return &verbs[i]
}

// change answers POST /api/{verb}. It is carried out to its end whether or not who asked waits for it.
func (a *api) change(w http.ResponseWriter, r *http.Request, who Who) {
	v := exactVerb(strings.ToUpper(strings.ReplaceAll(r.PathValue("verb"), "-", " ")))
	if v == nil || !v.changes {
		a.fail(w, http.StatusNotFound, fmt.Sprintf("there is no POST /api/%s: see docs/api.md", r.PathValue("verb")))
		return
	}
	if err := a.origin.Check(r); err != nil {
		a.fail(w, http.StatusForbidden, "this is not for pages of other origins")
		return
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		a.fail(w, http.StatusUnsupportedMediaType, `want Content-Type: application/json, and {"args": ["..."]}`)
		return
	}
	args, err := bodyArgs(w, r)
	if err != nil {
		a.fail(w, http.StatusBadRequest, err.Error())
		return
	}
	control := http.NewResponseController(w)
	if v.waits { // in a time of its own, which is above the server's
		_ = control.SetReadDeadline(time.Time{})
		_ = control.SetWriteDeadline(time.Time{})
	}
	_, answer, err := a.console.carryOut(a.ctx, append(strings.Fields(v.words), args...), who)
	if err != nil {
		a.failed(w, err)
		return
	}
	a.reply(w, http.StatusOK, map[string]any{"answer": answer})
}

// bodyArgs reads a verb's arguments.
func bodyArgs(w http.ResponseWriter, r *http.Request) ([]string, error) {
	var body struct {
		Args []string `json:"args"`
	}
	in := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	in.DisallowUnknownFields()
	if err := in.Decode(&body); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf(`%w; want {"args": ["..."]}, or nothing`, err)
	}
	return body.Args, nil
}

// overview answers GET /api/overview: everything that the page shows.
func (a *api) overview(w http.ResponseWriter, r *http.Request, who Who) {
	now, err := a.now(r.Context(), who)
	if err != nil {
		a.failed(w, err)
		return
	}
	sources, err := a.sources(r.Context(), who)
	if err != nil {
		a.failed(w, err)
		return
	}
	a.reply(w, http.StatusOK, append(object{{"you", you(who)}, {"sources", sources}, {"history", a.history()}}, now...))
}

// you is what somebody is told of themselves.
func you(who Who) object {
	return object{{"user", who.User}, {"addr", who.Remote}, {"may_change", who.rights >= adminRights}}
}

// now is what changes all the time, as the console shows it.
func (a *api) now(ctx context.Context, who Who) (object, error) {
	out := object{{"time", time.Now().UTC().Format(time.RFC3339Nano)}, {"version", a.console.cfg.Version}}
	for _, what := range []string{"pool", "stats", "latency", "limits", "queue", "suspects"} {
		_, answer, err := a.console.carryOut(ctx, []string{"SHOW", what}, who)
		if err != nil {
			return nil, err
		}
		if what == "queue" {
			answer = answer.(*table).first(mostWaiting)
		}
		out = append(out, member{what, answer})
	}
	return out, nil
}

// sources are those with the most connections.
func (a *api) sources(ctx context.Context, who Who) (*table, error) {
	_, answer, err := a.console.carryOut(ctx, []string{"SHOW", "SOURCES"}, who)
	if err != nil {
		return nil, err
	}
	return answer.(*table).first(mostSources), nil
}

// history is what the charts show.
func (a *api) history() *table {
	t := &table{columns: []string{"time_ms", "clients", "queued", "upstream", "pins", "refused_per_s", "commands_per_s", "p50_us", "p99_us"}}
	for _, p := range a.console.recorder.history() {
		t.add(p.at.UnixMilli(), p.clients, p.queued, p.upstream, p.pins, p.refused, p.commands, p.p50.Microseconds(), p.p99.Microseconds())
	}
	return t
}

// first returns the table with no more than its first rows; 0: all.
func (t *table) first(most int) *table {
	if most == 0 || len(t.rows) <= most {
		return t
	}
	return &table{columns: t.columns, rows: t.rows[:most], pairs: t.pairs}
}

// last returns the table with no more than its last row.
func (t *table) last() *table {
	return &table{columns: t.columns, rows: t.rows[max(len(t.rows)-1, 0):], pairs: t.pairs}
}

// MarshalJSON implements json.Marshaler.
func (t *table) MarshalJSON() ([]byte, error) { return []byte(t.json()), nil }

// object is a JSON object whose members keep their order.
type object []member

type member struct {
	name  string
	value any
}

// MarshalJSON implements json.Marshaler.
func (o object) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, m := range o {
		if i > 0 {
			b = append(b, ',')
		}
		value, err := json.Marshal(m.value)
		if err != nil {
			return nil, err
		}
		b = fmt.Appendf(b, "%q:%s", m.name, value)
	}
	return append(b, '}'), nil
}

// failed says why a verb has not been carried out.
func (a *api) failed(w http.ResponseWriter, err error) {
	status := http.StatusBadRequest
	var denied *permissionError
	switch {
	case errors.As(err, &denied):
		status = http.StatusForbidden
	case errors.Is(err, errStarting), errors.Is(err, errBusy):
		status = http.StatusServiceUnavailable
	}
	a.fail(w, status, err.Error())
}

func (a *api) fail(w http.ResponseWriter, status int, text string) {
	a.reply(w, status, object{{"error", oneLine(text)}})
}

func (a *api) reply(w http.ResponseWriter, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		panic("bug: no JSON for an answer: " + err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // who has gone does not want it
}
