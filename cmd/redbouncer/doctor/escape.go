package doctor

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// safe writes what a client or a server has said so that a terminal prints it and does not obey it: whatever is not a
// printable character is escaped as in Go, and what is long is cut.
func safe(text string, most int) string {
	var b strings.Builder
	n := 0
	for i, r := range text {
		piece := string(r)
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			_, size := utf8.DecodeRuneInString(text[i:])
			quoted := strconv.QuoteToASCII(text[i : i+size])
			piece = quoted[1 : len(quoted)-1]
		}
		if n += len([]rune(piece)); n > most {
			return b.String() + "~"
		}
		b.WriteString(piece)
	}
	return b.String()
}

// quoted is for commands to be copied into a shell: what is more than a plain word is in single quotes, and what no terminal
// should be sent is a question mark.
func quoted(text string) string {
	text = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
	plain := text != "" && strings.IndexFunc(text, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_./:@%+=,", r)
	}) < 0
	if plain {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
