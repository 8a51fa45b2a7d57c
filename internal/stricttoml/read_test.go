package stricttoml_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/stricttoml"
)

// read asks for what the tests' files have, and returns the problems without the file.
func read(t *testing.T, text string) []string {
	t.Helper()
	doc, root, err := stricttoml.Open("f.toml", []byte(text))
	if err != nil {
		return []string{err.Error()}
	}
	var s string
	var n int
	var b bool
	if root != nil {
		root.NeedStr("name", &s, nil)
		root.Integer("count", &n, 1, 9)
		root.Boolean("on", &b)
		if list, ok := root.Items("list", 2); ok {
			for _, i := range list {
				i.StrInto(&s, nil)
			}
		}
		for _, sub := range root.Tables("part", 2) {
			sub.Str("key", &s, nil)
			sub.Done()
		}
		sub := root.Sub("missing")
		sub.Str("key", &s, nil)
		sub.Done()
		root.Done()
	}
	err = doc.Problems.Err()
	if err == nil {
		return nil
	}
	var ps stricttoml.Problems
	if !errors.As(err, &ps) || !mvm.IsKind(err, mvm.KindInvalid) {
		t.Fatalf("got %v, want problems of kind invalid", err)
	}
	var out []string
	for _, p := range ps {
		out = append(out, strings.TrimPrefix(p.Error(), "f.toml"))
	}
	return out
}

// All problems of a file are found in one go, in its order and with their places.
func TestProblemsAndTheirPlaces(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"all is well": {"name = 'x'\ncount = 9\non = true\nlist = ['a', 'b']\n[[part]]\nkey = 'y'\n", nil},
		"the least":   {"name = 'x'\ncount = 1\n", nil},
		"a BOM":       {"\xef\xbb\xbfname = 'x'\n", nil},
		"empty":       {"", []string{":1:1: name is missing"}},
		"no TOML":     {"name = \n", []string{":1:8: unexpected character U+000A at start of value"}},
		"all kinds": {"name = 1\ncount = 10\n  on = 'yes'\nlist = ['a', 2]\nnam = 'x'\n[[part]]\n[[part]]\n'ö' = 1\n", []string{
			":1:1: name: is an integer, must be a string",
			":2:1: count: 10 is not in 1..9",
			":3:3: on: is a string, must be a boolean",
			":4:14: list[1]: is an integer, must be a string",
			":5:1: nam: unknown key (did you mean name?)",
			":8:1: part[1].ö: unknown key",
		}},
		"low":       {"name = 'x'\ncount = 0\n", []string{":2:1: count: 0 is not in 1..9"}},
		"too many":  {"name = 'x'\nlist = ['a', 'b', 'c']\n", []string{":2:1: list: has 3 elements, more than 2"}},
		"no array":  {"name = 'x'\nlist = 'a'\npart = {}\n", []string{":2:1: list: is a string, must be an array", ":3:1: part: is a table, must be an array"}},
		"no tables": {"name = 'x'\npart = [1.5]\nmissing = [1]\n", []string{":2:9: part[0]: is a float, must be a table", ":3:1: missing: is an array, must be a table"}},
	} {
		if got := read(t, c.text); !slices.Equal(got, c.want) {
			t.Errorf("%s: got\n%q, want\n%q", name, got, c.want)
		}
	}
}

// What costs more than its size deserves is refused at its exact bound.
func TestBounds(t *testing.T) {
	const head = "name = 'x'\n"
	for name, c := range map[string]struct {
		text func(n int) string
		most int
		want string
	}{
		"bytes":  {func(n int) string { return head + "#" + strings.Repeat("x", n-len(head)-1) }, stricttoml.MaxBytes, "more than 1048576 bytes"},
		"arrays": {func(n int) string { return head + "x = " + strings.Repeat("[", n) + strings.Repeat("]", n) }, 16, "nested more than 16 levels deep"},
		"keys":   {func(n int) string { return head + strings.Repeat("a.", n-1) + "a = 1" }, 16, "nested more than 16 levels deep"},
		"values": {func(n int) string { return head + "x = [" + strings.Repeat("1,", n-2) + "]" }, 10_000, "more than 10000 keys and values"},
	} {
		if got := strings.Join(read(t, c.text(c.most)), "\n"); strings.Contains(got, c.want) {
			t.Errorf("%s: %d are refused: %s", name, c.most, got)
		}
		if got := read(t, c.text(c.most+1)); len(got) != 1 || !strings.Contains(got[0], c.want) {
			t.Errorf("%s: got %.200q for %d, want one problem that says %q", name, got, c.most+1, c.want)
		}
	}
}

// What is told of one file is bounded, however much is wrong with it.
func TestProblemsAreBounded(t *testing.T) {
	got := read(t, "name = 'x'\n"+strings.Repeat("x", 200)+" = 1\n[[part]]\n"+keys(300))
	if few := read(t, "name = 'x'\n[[part]]\n"+keys(101)); len(few) != 101 || few[100] != ": and 1 more problems" {
		t.Errorf("of 101 problems %d are told, the last %q", len(few), few[len(few)-1])
	}
	if len(got) != 101 || got[100] != ": and 201 more problems" {
		t.Fatalf("got %d problems, the last %q", len(got), got[len(got)-1])
	}
	if len(got[0]) > 200 {
		t.Errorf("a key of 200 bytes makes a problem of %d", len(got[0]))
	}
}

func keys(n int) string {
	var b strings.Builder
	for n := range n {
		fmt.Fprintf(&b, "k%d = 1\n", n)
	}
	return b.String()
}
