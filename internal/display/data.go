package display

import (
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// JSON escapes what is hidden in the strings of a JSON text. The text stays valid and
// means the same. What is no UTF-8 can't be in JSON, and becomes U+FFFD.
func JSON(text []byte) []byte {
	return quoted(text, func(b *strings.Builder, r rune) {
		if hi, lo := utf16.EncodeRune(r); hi != utf8.RuneError {
			fmt.Fprintf(b, `\u%04x\u%04x`, hi, lo)
		} else {
			fmt.Fprintf(b, `\u%04x`, r)
		}
	})
}

// YAML is JSON for a YAML text whose hidden characters are all in double quotes.
func YAML(text []byte) []byte {
	return quoted(text, func(b *strings.Builder, r rune) {
		if r > 0xffff {
			fmt.Fprintf(b, `\U%08x`, r)
		} else {
			fmt.Fprintf(b, `\u%04x`, r)
		}
	})
}

// quoted has escape write what is hidden, except for the white space between tokens.
func quoted(text []byte, escape func(b *strings.Builder, r rune)) []byte {
	s := string(text)
	if Clean(s) {
		return text
	}
	var b strings.Builder
	for _, r := range s {
		if Hidden(r) && r != '\n' && r != '\t' && r != '\r' {
			escape(&b, r)
		} else {
			b.WriteRune(r)
		}
	}
	return []byte(b.String())
}
