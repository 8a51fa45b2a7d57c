package display

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

const resetColour = "\x1b[0m"

// Coloured is Line for a line of a program's output on a terminal: tabs stay, and so do
// sequences that change colour and weight, which end with the line.
func Coloured(s string) string {
	var b strings.Builder
	on := appendColoured(&b, s, "\t", false)
	if on {
		b.WriteString(resetColour)
	}
	return b.String()
}

// appendColoured appends the text, with escapes and colours, and returns whether a colour
// is on after it, as one was before it.
func appendColoured(b *strings.Builder, s, keep string, on bool) bool {
	for i := 0; i < len(s); {
		if seq := colourAt(s[i:]); seq != "" {
			b.WriteString(seq)
			on = seq != resetColour && seq != "\x1b[m"
			i += len(seq)
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		appendRune(b, r, s[i:i+n], keep)
		i += n
	}
	return on
}

// maxColour bounds a sequence that changes colours.
const maxColour = 48

// colourAt returns the sequence at the start of s that changes colour or weight and
// nothing else: ESC [ numbers m. "" when there is none. Text that is made invisible is
// no colour.
func colourAt(s string) string {
	rest, ok := strings.CutPrefix(s, "\x1b[")
	if !ok {
		return ""
	}
	end := strings.IndexFunc(rest[:min(len(rest), maxColour)], func(r rune) bool { return r != ';' && (r < '0' || r > '9') })
	if end < 0 || rest[end] != 'm' || !colours(strings.Split(rest[:end], ";")) {
		return ""
	}
	return s[:len("\x1b[")+end+1]
}

// colours reports whether all parameters of the sequence are ones that are let through.
func colours(params []string) bool {
	for len(params) > 0 {
		n, used := number(params[0]), 1
		switch {
		case n == 38 || n == 48 || n == 58: // of a palette, or red, green and blue
			if used = len(params); used > 1 && number(params[1]) == 5 {
				used = 3
			} else if used > 1 && number(params[1]) == 2 {
				used = 5
			} else {
				return false
			}
			if used > len(params) {
				return false
			}
			for _, p := range params[2:used] {
				if number(p) > 255 {
					return false
				}
			}
		case n >= 0 && n <= 7, n == 9, n >= 21 && n <= 49, n == 53, n == 55, n == 59, n >= 90 && n <= 107:
		default:
			return false
		}
		params = params[used:]
	}
	return true
}

// number is a parameter, 0 when it was left out, and a large one when it is none.
func number(p string) int {
	if p == "" {
		return 0
	}
	n, err := strconv.Atoi(p)
	if err != nil {
		return 1 << 20
	}
	return n
}
