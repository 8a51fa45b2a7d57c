package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
)

// The test's program confines the programs of tests as the command does.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == confineArg {
		code, err := confined(os.Args[2:])
		if err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			code = confineFailed
		}
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// plant runs the command on the package.
func plant(t *testing.T, seed uint64, n int, only, pkg string) table {
	t.Helper()
	var log bytes.Buffer
	r := &runner{log: &log, jobs: 2, slack: 8 * time.Second, longest: time.Minute}
	got, err := r.run(t.Context(), seed, n, only, false, []string{pkg})
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	return got
}

// TestVerdicts plants bugs in a package of which it is known what its tests notice.
func TestVerdicts(t *testing.T) {
	want := map[string]verdict{
		"Least | negate | a < b":        caught,
		"Least | operator | a < b":      survived, // of two equal ones either is the least
		"Least | never | a < b":         caught,
		"Unchecked | negate | n > 10":   survived, // it has no test
		"Wait | leave out | n--":        hung,
		"Half | drop error | errOdd":    caught,
		"Half | leave out | x := n / 2": "",
	}
	got := map[string]verdict{}
	for _, r := range plant(t, 1, 1000, "", "test/mutate/testdata/known").rows {
		name := strings.TrimPrefix(r.site.name(), "test/mutate/testdata/known/known.go | ")
		got[name] = r.verdict
	}
	for name, v := range want {
		if got[name] != v {
			t.Errorf("%s: %q, want %q", name, got[name], v)
		}
	}
	if len(got) < 10 {
		t.Errorf("%d bugs were planted: %v", len(got), got)
	}
}

// TestOrderIsTheSeeds: the same seed plants the same bugs, another one others, and each
// kind of bug has its turn.
func TestOrderIsTheSeeds(t *testing.T) {
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	names := func(seed uint64) string {
		sources, err := load(root, []string{"internal/policy"})
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		kinds := map[string]bool{}
		for _, s := range order(sources[0].find(), seed, "")[:12] {
			out = append(out, s.name())
			kinds[s.kind] = true
		}
		if len(kinds) < 5 {
			t.Errorf("12 bugs of seed %d are of %d kinds", seed, len(kinds))
		}
		return strings.Join(out, "\n")
	}
	if first, again := names(1), names(1); first != again || first == names(2) {
		t.Error("the order is not the seed's")
	}
}

// TestTestsNotice is a short run of `make mutate` on one package whose tests are quick.
func TestTestsNotice(t *testing.T) {
	if got := plant(t, 1, 10, "", "internal/policy"); got.rate() > 15 {
		var out bytes.Buffer
		got.print(&out)
		t.Errorf("tests of internal/policy miss too much: write one for each that survived, or give the reason in equivalent.txt:\n%s", out.String())
	}
}
