package proxy_test

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// How replies that cannot be equal byte for byte are compared: parsed, and written down without the part that
// differs for a known reason. The reasons stand in testdata/differential.txt. Errors are never masked.

// reply is one parsed value of RESP2 or RESP3.
type reply struct {
	kind byte
	text string
	kids []reply
}

// parseReply reads one reply from the front of b.
func parseReply(b []byte) (r reply, rest []byte, err error) {
	line, rest, ok := bytes.Cut(b, []byte("\r\n"))
	if !ok || len(line) == 0 {
		return r, nil, fmt.Errorf("%q is no reply", b)
	}
	r = reply{kind: line[0], text: string(line[1:])}
	n, err := strconv.Atoi(r.text)
	switch r.kind {
	case '$', '!', '=':
		if err != nil || n >= 0 && n+2 > len(rest) {
			return r, nil, fmt.Errorf("%q is no reply", b)
		}
		if n >= 0 {
			r.text, rest = string(rest[:n]), rest[n+2:]
		}
		return r, rest, nil
	case '*', '~', '>', '%', '|':
		if err != nil {
			return r, nil, err
		}
	default:
		return r, rest, nil
	}
	if r.kind == '%' || r.kind == '|' {
		n *= 2
	}
	for range n {
		var kid reply
		kid, rest, err = parseReply(rest)
		if err != nil {
			return r, nil, err
		}
		r.kids = append(r.kids, kid)
	}
	return r, rest, nil
}

// mask says what is left out of a comparison.
type mask string

const (
	maskNone   mask = ""
	maskDigits mask = "digits" // every run of digits
	maskFields mask = "fields" // the values of a=b fields
	maskID     mask = "id"     // the number that follows the word id
	maskSorted mask = "sorted" // the order of elements, at every depth
	maskType   mask = "type"   // everything but the type
)

var (
	digits      = regexp.MustCompile(`[0-9]+`)
	fieldValues = regexp.MustCompile(`=\S*`)
)

// masked writes a whole reply down under the masks.
func masked(raw []byte, masks []mask) string {
	if len(masks) == 0 {
		return string(raw)
	}
	r, rest, err := parseReply(raw)
	if err != nil || len(rest) > 0 {
		return string(raw)
	}
	return r.masked(masks)
}

func (r reply) masked(masks []mask) string {
	if r.kind == '-' || r.kind == '!' {
		return string(r.kind) + r.text
	}
	text := r.text
	for _, m := range masks {
		switch m {
		case maskDigits:
			text = digits.ReplaceAllString(text, "0")
		case maskFields:
			text = fieldValues.ReplaceAllString(text, "=")
		case maskType:
			// A transaction's replies are elements, so one level of types remains.
			if len(r.kids) == 0 || r.kind != '*' {
				return string(r.kind)
			}
		}
	}
	if len(r.kids) == 0 {
		return string(r.kind) + text
	}
	kids := make([]string, len(r.kids))
	for i, kid := range r.kids {
		kids[i] = kid.masked(masks)
		if i > 0 && slices.Contains(masks, maskID) && r.kids[i-1].text == "id" {
			kids[i] = string(kid.kind)
		}
	}
	if slices.Contains(masks, maskSorted) {
		kids = sorted(r.kind, kids)
	}
	if slices.Contains(masks, maskType) {
		return string(r.kind) + kids[0]
	}
	return string(r.kind) + "[" + strings.Join(kids, " ") + "]"
}

// sorted sorts elements, and the pairs of a map.
func sorted(kind byte, kids []string) []string {
	if kind == '%' {
		var pairs []string
		for i := 0; i+1 < len(kids); i += 2 {
			pairs = append(pairs, kids[i]+"="+kids[i+1])
		}
		kids = pairs
	}
	slices.Sort(kids)
	return kids
}
