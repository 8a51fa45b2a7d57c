// Package display makes text that others wrote fit to be shown: guests, clients, tenants
// and files of users. On its way to a terminal such text could move the cursor, change
// the window's title, answer for the user, or look like other text.
//
// What a terminal acts on, or a reader can't see, is written as an escape in its place,
// as Go and JSON write it: \x1b, \u202e, \xff. So nothing is lost and nothing hides. A
// backslash stays as it is.
package display

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// hidden are the code points that are written as escapes: controls (C0, DEL, C1), format
// characters (bidirectional overrides, isolates and marks, zero-width characters, tags,
// byte order marks), separators of lines and paragraphs, and what shows as nothing.
var hidden = []*unicode.RangeTable{unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Other_Default_Ignorable_Code_Point}

// Hidden reports whether the code point is written as an escape.
func Hidden(r rune) bool {
	if r < 0x7f {
		return r < ' '
	}
	return unicode.In(r, hidden...)
}

// Clean reports whether the text is shown as it is on one line.
func Clean(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, Hidden) < 0
}

// Line is the text as one line: line breaks and tabs are escapes too.
func Line(s string) string { return escape(s, "") }

// Text is the text with its lines and tabs.
func Text(s string) string { return escape(s, "\n\t") }

func escape(s, keep string) string {
	if Clean(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		appendRune(&b, r, s[i:i+n], keep)
		i += n
	}
	return b.String()
}

// appendRune appends a code point that was decoded from raw, or its escape.
func appendRune(b *strings.Builder, r rune, raw, keep string) {
	switch {
	case r == utf8.RuneError && len(raw) == 1:
		fmt.Fprintf(b, `\x%02x`, raw[0])
	case !Hidden(r) || strings.ContainsRune(keep, r):
		b.WriteString(raw)
	case r == '\n':
		b.WriteString(`\n`)
	case r == '\r':
		b.WriteString(`\r`)
	case r == '\t':
		b.WriteString(`\t`)
	case r < 0x80:
		fmt.Fprintf(b, `\x%02x`, r)
	case r <= 0xffff:
		fmt.Fprintf(b, `\u%04x`, r)
	default:
		fmt.Fprintf(b, `\U%08x`, r)
	}
}

// clipped is how much of a text Clip keeps, in bytes.
const clipped = 300

// Clip bounds text of a guest, or an error that may have some, before it goes into a
// record or a log.
func Clip(s string) string { return ClipTo(clipped, s) }

// ClipTo bounds text to n bytes, and keeps whole characters of it.
func ClipTo(n int, s string) string {
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "") + "…"
	}
	return s
}
