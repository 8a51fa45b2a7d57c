package manifest_test

import (
	"fmt"
	"strings"
	"testing"

	"mvm/internal/manifest"
)

// Inputs made to be costly are refused for what makes them so, before the decoder,
// whose time grows with their square, sees them.
func TestHostileInputsAreBounded(t *testing.T) {
	const size = manifest.MaxFileBytes - 100
	fill := func(s string) string { return strings.Repeat(s, size/len(s)) }
	for name, c := range map[string]struct{ input, want string }{
		"brackets":        {"a = " + fill("["), "nested"},
		"braces":          {"a = " + fill("{a="), "nested"},
		"dotted keys":     {fill("a.") + "a = 1", "nested"},
		"dotted table":    {"[" + fill("a.") + "a]", "nested"},
		"nested tables":   {fill("[a.b.c.d.e.f.g.h]\n"), "exists"},
		"many keys":       {manyKeys(size), "more than 10000 keys and values"},
		"many tables":     {fill("[[pools]]\n"), "more than 10000 keys and values"},
		"array":           {"a = [" + fill("1,") + "1]", "more than 10000 keys and values"},
		"many secrets":    {"tenant.id=\"a\"\n[secrets]\n" + manyKeys(8<<10), "more than 256"},
		"a long string":   {"a = \"" + fill("x") + "\"", "unknown key"},
		"one unknown key": {fill("x") + " = 1", "unknown key"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := manifest.ParseDeployment("m.toml", []byte(c.input), noSecrets)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %.500v, want it to say %q", err, c.want)
			} else if n := len(err.Error()); n > 64<<10 {
				t.Errorf("the error has %d bytes", n)
			}
		})
	}
}

func manyKeys(size int) string {
	var b strings.Builder
	for n := 0; b.Len() < size-20; n++ {
		fmt.Fprintf(&b, "k%d = 1\n", n)
	}
	return b.String()
}
