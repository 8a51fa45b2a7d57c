package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
)

// verdict is what became of a bug.
type verdict string

const (
	caught      verdict = "caught"
	hung        verdict = "hung" // the tests did not end: it is noticed
	survived    verdict = "SURVIVED"
	unbuildable verdict = "does not compile"
	equivalent  verdict = "equivalent"
	listed      verdict = "listed"
)

// row is one bug in the table.
type row struct {
	site    site
	verdict verdict
	by      string // the test that noticed, or the reason
	took    time.Duration
}

func (r row) String() string {
	s := fmt.Sprintf("%-9s %s | line %d", r.verdict, r.site.name(), r.site.line)
	if r.by != "" {
		s += " | " + r.by
	}
	if r.took > 0 {
		s += fmt.Sprintf(" | %.0f s", r.took.Seconds())
	}
	return s
}

// table is the outcome of a run.
type table struct {
	seed uint64
	rows []row
	took time.Duration
}

func (t table) count(v verdict) (n int) {
	for _, r := range t.rows {
		if r.verdict == v {
			n++
		}
	}
	return n
}

// planted are the bugs that count.
func (t table) planted() int { return t.count(caught) + t.count(hung) + t.count(survived) }

// rate is the percentage that survived.
func (t table) rate() float64 {
	if t.planted() == 0 {
		return 0
	}
	return 100 * float64(t.count(survived)) / float64(t.planted())
}

// print writes the bugs that survived, and the numbers for each package.
func (t table) print(w io.Writer) {
	pkgs, byPkg := []string{}, map[string]*table{}
	for _, r := range t.rows {
		if r.verdict == survived || r.verdict == listed {
			fmt.Fprintln(w, r)
		}
		pkg := r.site.file[:strings.LastIndex(r.site.file, "/")]
		if byPkg[pkg] == nil {
			byPkg[pkg] = &table{}
			pkgs = append(pkgs, pkg)
		}
		byPkg[pkg].rows = append(byPkg[pkg].rows, r)
	}
	if t.planted() == 0 {
		return
	}
	fmt.Fprintf(w, "\n| package | planted | caught | hung | survived | rate |\n|---|---|---|---|---|---|\n")
	line := func(name string, t table) {
		fmt.Fprintf(w, "| %s | %d | %d | %d | %d | %.0f %% |\n", name, t.planted(), t.count(caught), t.count(hung), t.count(survived), t.rate())
	}
	for _, pkg := range pkgs {
		line(pkg, *byPkg[pkg])
	}
	line("all", t)
	fmt.Fprintf(w, "\nseed %d; %d more do not compile and %d are equivalent; %.0f s\n", t.seed, t.count(unbuildable), t.count(equivalent), t.took.Seconds())
}

// equivalents reads the bugs that change nothing that anybody could notice: a name, and
// below it, indented, the reason.
func equivalents(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	same, name := map[string]string{}, ""
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		switch line := lines.Text(); {
		case strings.TrimSpace(line) == "" || line[0] == '#':
		case line[0] != ' ':
			name = line
		case name == "":
			return nil, fmt.Errorf("%s: a reason without a bug: %s", path, line)
		default:
			same[name] = strings.TrimSpace(same[name] + " " + strings.TrimSpace(line))
		}
	}
	return same, lines.Err()
}
