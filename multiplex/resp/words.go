package resp

// splitWords splits an inline command into its arguments, by Redis's rules (sds.c: sdssplitargs): words are
// separated by white space; "double quotes" know \n, \r, \t, \b, \a, \xHH and \ before anything else; 'single
// quotes' know \' only; what follows a closing quote must be white space. It reports false where the quotes do
// not match. Vertical tabs and form feeds are white space between words, but do not end a word without quotes.
func splitWords(line []byte) ([][]byte, bool) {
	var args [][]byte
	for i := 0; ; {
		for i < len(line) && isSpace(line[i]) {
			i++
		}
		if i == len(line) {
			return args, true
		}
		word, n, ok := nextWord(line[i:])
		if !ok {
			return nil, false
		}
		args = append(args, word)
		i += n
	}
}

// nextWord reads the word at the front of s, and returns it with the length that it takes in s.
func nextWord(s []byte) ([]byte, int, bool) {
	word := []byte{}
	var quote byte
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote == 0 && isSpace(c) && c != '\v' && c != '\f':
			return word, i, true
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote != 0 && c == quote:
			if i+1 < len(s) && !isSpace(s[i+1]) {
				return nil, 0, false
			}
			return word, i + 1, true
		case quote == '"' && c == '\\' && i+1 < len(s):
			b, n := unescape(s[i+1:])
			word = append(word, b)
			i += n
		case quote == '\'' && c == '\\' && i+1 < len(s) && s[i+1] == '\'':
			word = append(word, '\'')
			i++
		default:
			word = append(word, c)
		}
	}
	return word, len(s), quote == 0
}

// unescape reads what follows a backslash in double quotes, and returns the byte meant and the length read.
func unescape(s []byte) (byte, int) {
	if s[0] == 'x' && len(s) >= 3 {
		hi, ok1 := hexDigit(s[1])
		lo, ok2 := hexDigit(s[2])
		if ok1 && ok2 {
			return hi<<4 | lo, 3
		}
	}
	switch s[0] {
	case 'n':
		return '\n', 1
	case 'r':
		return '\r', 1
	case 't':
		return '\t', 1
	case 'b':
		return '\b', 1
	case 'a':
		return '\a', 1
	}
	return s[0], 1
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }
