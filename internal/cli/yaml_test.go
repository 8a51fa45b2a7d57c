package cli_test

import (
	base "mvm/internal/cli/command"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"mvm/internal/display"
)

// FuzzYAML: any text in a value or a key comes back from YAML as it was, and nothing
// hidden is printed.
func FuzzYAML(f *testing.F) {
	for _, s := range []string{"", "plain", wicked, "a\nb\t\n", " \u0085x", "\u2028\n- a: b", "#\x7f", strings.Repeat("long \u202e ", 60), "\U000e0041👍\u00a0", "true", "~\u200b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ToValidUTF8(s, "\ufffd")
		key := "k" + string([]rune(s)[:min(len([]rune(s)), 60)]) // YAML bounds keys
		b, err := base.Encode("yaml", map[string]any{key: []string{s, s + "\n", "x" + s}})
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		for _, r := range string(b) {
			if display.Hidden(r) && r != '\n' && r != '\t' {
				t.Fatalf("%q: %U in %q", s, r, b)
			}
		}
		var got map[string][]string
		if err := yaml.Unmarshal(b, &got); err != nil {
			t.Fatalf("%q: %v in\n%s", s, err, b)
		}
		if v := got[key]; len(v) != 3 || v[0] != s || v[1] != s+"\n" || v[2] != "x"+s {
			t.Fatalf("%q became %q by\n%s", s, got, b)
		}
	})
}
