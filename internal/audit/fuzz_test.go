package audit_test

import (
	"strings"
	"testing"

	"mvm/internal/audit"
)

// FuzzParseMark: what is read as a mark is one that String writes to the letter.
func FuzzParseMark(f *testing.F) {
	f.Add("7:" + strings.Repeat("0a", 32))
	f.Add("0:" + strings.Repeat("0a", 32))
	f.Add("7:" + strings.Repeat("0A", 32))
	f.Add("18446744073709551616:" + strings.Repeat("0a", 32))
	f.Add("+7: 00")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := audit.ParseMark(s)
		if err == nil && (m.String() != s || m.Seq == 0 || len(m.Hash) != 64) {
			t.Errorf("%q is read as %+v", s, m)
		}
		if err != nil && m != (audit.Mark{}) {
			t.Errorf("%q: an error and a mark %+v", s, m)
		}
	})
}
