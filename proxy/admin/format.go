package admin

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// People get tables, programs get data. By default it is the version of the protocol that tells them apart:
//
//   - RESP2 gets an array of lines, the first one with the names of the columns, each a simple string: redis-cli shows
//     these without quotes, one below the other, on a terminal and in a pipe;
//   - RESP3 gets an array of maps, by the names of the columns.
//
// FORMAT behind the command says otherwise. With RESP3, TABLE and WIDE are one verbatim string, which redis-cli -3 shows
// as it is. With RESP2, MAP is what RESP2 has for maps: names and values in turn.

// format is the form of an answer that is a table.
type format uint8

const (
	byProtocol format = iota
	asTable
	asWide // a table with all columns
	asMap
	asJSON
)

var formats = map[string]format{"TABLE": asTable, "WIDE": asWide, "MAP": asMap, "JSON": asJSON}

// table is an answer with columns and rows. Its cells are strings, int, int64, uint64, float64, bool and list.
type table struct {
	columns []string // those with a + in front are only shown in a wide table, and to programs
	rows    [][]any
	pairs   bool // it has two columns, a name and its value: for programs, it is one map
}

// list is a cell that is an empty list.
type list struct{}

func (t *table) add(cells ...any) { t.rows = append(t.rows, cells) }

// request is a command that is being carried out.
type request struct {
	Backends
	console *Console
	args    []string
	who     Who
	format  format
}

// takeFormat takes FORMAT and its word off the arguments.
func (r *request) takeFormat(v *verb) error {
	n := len(r.args)
	if !v.shows() || n == 0 {
		return nil
	}
	switch {
	case n >= 2 && strings.EqualFold(r.args[n-2], "FORMAT"):
		f, ok := formats[strings.ToUpper(r.args[n-1])]
		if !ok {
			return fmt.Errorf("FORMAT %s: want TABLE, WIDE, MAP or JSON", r.args[n-1])
		}
		r.format, r.args = f, r.args[:n-2]
	case strings.EqualFold(r.args[n-1], "FORMAT"):
		return fmt.Errorf("FORMAT: want TABLE, WIDE, MAP or JSON behind it")
	}
	return nil
}

// encode returns the reply for an answer.
func (r *request) encode(answer any) []byte {
	switch a := answer.(type) {
	case int:
		return fmt.Appendf(nil, ":%d\r\n", a)
	case string:
		return fmt.Appendf(nil, "+%s\r\n", oneLine(a))
	case []string:
		return appendLines(nil, a)
	case *table:
		return r.encodeTable(a)
	}
	panic(fmt.Sprintf("bug: no reply for %T", answer))
}

func (r *request) encodeTable(t *table) []byte {
	f := r.format
	if f == byProtocol {
		f = asTable
		if r.who.RESP == 3 {
			f = asMap
		}
	}
	switch f {
	case asMap:
		return t.appendMaps(nil, r.who.RESP)
	case asJSON:
		return resp.AppendBulk(nil, t.json())
	}
	lines := t.lines(f == asWide)
	if r.who.RESP != 3 {
		return appendLines(nil, lines)
	}
	return verbatim(strings.Join(lines, "\n"))
}

// verbatim is a verbatim string of RESP3.
func verbatim(text string) []byte {
	return fmt.Appendf(nil, "=%d\r\ntxt:%s\r\n", len(text)+len("txt:"), text)
}

func appendLines(b []byte, lines []string) []byte {
	b = fmt.Appendf(b, "*%d\r\n", len(lines))
	for _, line := range lines {
		b = fmt.Appendf(b, "+%s\r\n", line)
	}
	return b
}

// lines returns the table as lines with aligned columns, numbers to the right. What is empty is shown as -, so that
// every line has as many columns.
func (t *table) lines(wide bool) []string {
	var shown []int
	for i, name := range t.columns {
		if wide || name[0] != '+' {
			shown = append(shown, i)
		}
	}
	texts := make([][]string, 0, len(t.rows)+1)
	header := make([]string, 0, len(shown))
	width := make([]int, len(shown))
	right := make([]bool, len(shown))
	for at, i := range shown {
		header = append(header, strings.TrimPrefix(t.columns[i], "+"))
		width[at] = len(header[at])
	}
	texts = append(texts, header)
	for _, row := range t.rows {
		line := make([]string, len(shown))
		for at, i := range shown {
			line[at], right[at] = cellText(row[i]), isNumber(row[i])
			width[at] = max(width[at], len([]rune(line[at])))
		}
		texts = append(texts, line)
	}
	out := make([]string, len(texts))
	for n, cells := range texts {
		var b strings.Builder
		for at, cell := range cells {
			pad := strings.Repeat(" ", width[at]-len([]rune(cell)))
			if right[at] {
				cell = pad + cell
			} else {
				cell += pad
			}
			if at > 0 {
				b.WriteString("  ")
			}
			b.WriteString(cell)
		}
		out[n] = strings.TrimRight(b.String(), " ")
	}
	return out
}

func isNumber(cell any) bool {
	switch cell.(type) {
	case string, bool:
		return false
	}
	return true
}

func cellText(cell any) string {
	switch v := cell.(type) {
	case string:
		if v == "" {
			return "-"
		}
		return oneLine(v)
	case bool:
		if v {
			return "yes"
		}
		return "no"
	case float64:
		return floatText(v)
	}
	return fmt.Sprint(cell)
}

// floatText has two digits behind the point at most.
func floatText(v float64) string { return strconv.FormatFloat(math.Round(v*100)/100, 'f', -1, 64) }

// appendMaps appends the table as an array of maps, or as one.
func (t *table) appendMaps(b []byte, protocol int) []byte {
	header := func(n int) {
		if protocol == 3 {
			b = fmt.Appendf(b, "%%%d\r\n", n)
		} else {
			b = fmt.Appendf(b, "*%d\r\n", 2*n)
		}
	}
	if t.pairs {
		header(len(t.rows))
		for _, row := range t.rows {
			b = appendCell(appendCell(b, row[0], protocol), row[1], protocol)
		}
		return b
	}
	b = fmt.Appendf(b, "*%d\r\n", len(t.rows))
	for _, row := range t.rows {
		header(len(t.columns))
		for i, name := range t.columns {
			b = appendCell(b, strings.TrimPrefix(name, "+"), protocol)
			b = appendCell(b, row[i], protocol)
		}
	}
	return b
}

func appendCell(b []byte, cell any, protocol int) []byte {
	switch v := cell.(type) {
	case string:
		return resp.AppendBulk(b, v)
	case list:
		return append(b, "*0\r\n"...)
	case bool:
		switch {
		case protocol == 3 && v:
			return append(b, "#t\r\n"...)
		case protocol == 3:
			return append(b, "#f\r\n"...)
		}
		return resp.AppendBulk(b, cellText(v))
	case float64:
		if protocol == 3 {
			return fmt.Appendf(b, ",%s\r\n", floatText(v))
		}
		return resp.AppendBulk(b, floatText(v))
	}
	return fmt.Appendf(b, ":%d\r\n", cell)
}

// json returns the table as an array of objects, or as one, with the columns in their order.
func (t *table) json() string {
	var b strings.Builder
	object := func(n int, at func(i int) (string, any)) {
		b.WriteByte('{')
		for i := range n {
			name, cell := at(i)
			if i > 0 {
				b.WriteByte(',')
			}
			if f, ok := cell.(float64); ok {
				cell = json.RawMessage(floatText(f))
			}
			key, _ := json.Marshal(name) // a string always can
			value, err := json.Marshal(cell)
			if err != nil {
				value = []byte("null") // a number that is none
			}
			b.Write(key)
			b.WriteByte(':')
			b.Write(value)
		}
		b.WriteByte('}')
	}
	if t.pairs {
		object(len(t.rows), func(i int) (string, any) { return t.rows[i][0].(string), t.rows[i][1] })
		return b.String()
	}
	b.WriteByte('[')
	for n, row := range t.rows {
		if n > 0 {
			b.WriteByte(',')
		}
		object(len(t.columns), func(i int) (string, any) { return strings.TrimPrefix(t.columns[i], "+"), row[i] })
	}
	b.WriteByte(']')
	return b.String()
}
