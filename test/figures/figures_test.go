package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// The limits that the program keeps.
const (
	maxChain   = 7     // imports
	maxPackage = 8_000 // lines
	maxP95     = 40    // lines
	maxDrift   = 10    // percent that the page may be behind
)

func TestLimits(t *testing.T) {
	f, err := measure("../..")
	if err != nil {
		t.Fatal(err)
	}
	if c := f.chain(); len(c)-1 > maxChain {
		t.Errorf("a chain of %d imports, more than %d: %s", len(c)-1, maxChain, strings.Join(c, " → "))
	}
	if p := f.largest()[0]; f.lines[p] > maxPackage {
		t.Errorf("package %s has %d lines, more than %d: split it by what its parts own", p, f.lines[p], maxPackage)
	}
	if n := f.p95(); n > maxP95 {
		t.Errorf("95 %% of the functions have up to %d lines, more than %d", n, maxP95)
	}
}

// TestPageHasTheFigures: the page says what the program is like now, or nearly so.
func TestPageHasTheFigures(t *testing.T) {
	f, err := measure("../..")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("../../docs/ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), beginMark)
	page, _, ends := strings.Cut(rest, endMark)
	if !ok || !ends {
		t.Fatalf("docs/ARCHITECTURE.md has no figures: want %q and %q", beginMark, endMark)
	}
	was, now := numbers(page), numbers(f.text())
	for _, row := range []string{"packages", "lines, without tests", "longest import chain", "functions", "95 % of them have at most"} {
		if d := was[row] - now[row]; d*100 > maxDrift*now[row] || -d*100 > maxDrift*now[row] {
			t.Errorf("docs/ARCHITECTURE.md says %q is %d, and it is %d: run make figures", row, was[row], now[row])
		}
	}
}

// numbers are the first numbers of a table's rows.
func numbers(table string) map[string]int {
	out := map[string]int{}
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		v, _, _ := strings.Cut(strings.TrimSpace(cells[2]), " ")
		if n, err := strconv.Atoi(strings.TrimSuffix(v, ":")); err == nil {
			out[strings.TrimSpace(cells[1])] = n
		}
	}
	return out
}

// TestMeasure measures a module of which all is known.
func TestMeasure(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("nouns.go", "package mvm\n")
	write("cmd/x/main.go", "package main\n\nimport \"mvm/internal/a\"\n\nfunc main() {\n\ta.Do()\n}\n")
	write("internal/a/a.go", "package a\n\nimport (\n\t\"fmt\"\n\n\t\"mvm\"\n\t\"mvm/internal/b\"\n)\n\nfunc Do() {}\n")
	write("internal/b/b.go", "package b\n\nimport \"mvm\"\n")
	write("internal/b/b_test.go", "package b\n\nimport \"mvm/internal/c\"\n")
	write("internal/b/testdata/t.go", "no Go\n")
	f, err := measure(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(f.chain(), " "); got != "cmd/x internal/a internal/b ." {
		t.Errorf("the longest chain is %q", got)
	}
	if got := fmt.Sprint(f.lines); got != "map[.:1 cmd/x:7 internal/a:10 internal/b:3]" {
		t.Errorf("lines: %s", got)
	}
	if got := fmt.Sprint(f.functions, f.p95()); got != "[{internal/a/a.go Do 1} {cmd/x/main.go main 3}] 3" {
		t.Errorf("functions: %s", got)
	}
	for _, want := range []string{"| packages | 4 |", "| longest import chain | 3 imports: cmd/x → a → b → mvm |", "a 10, cmd/x 7, b 3, mvm 1", "3 lines, `cmd/x/main.go main`"} {
		if !strings.Contains(f.text(), want) {
			t.Errorf("the text has no %q:\n%s", want, f.text())
		}
	}
	if _, err := measure(filepath.Join(dir, "internal/b/testdata")); err == nil {
		t.Error("a folder without a module was measured")
	}
}

func TestPut(t *testing.T) {
	page := "before\n" + beginMark + "old\n" + endMark + "after\n"
	got, err := put(page, "new\n")
	if want := "before\n" + beginMark + "new\n" + endMark + "after\n"; err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if _, err := put("no marks\n", "new\n"); err == nil {
		t.Error("a page without marks was taken")
	}
}
