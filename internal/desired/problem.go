package desired

import (
	"fmt"
	"strings"

	"mvm"
)

// Problem is one thing that is wrong with a document.
type Problem struct {
	Path string // "tenants[0].pools[1].desired_counts.running"; empty: the whole
	Text string
}

// Error returns "path: text".
func (p Problem) Error() string {
	if p.Path == "" {
		return p.Text
	}
	return p.Path + ": " + p.Text
}

// maxProblems bounds what is told of one document.
const maxProblems = 20

// Problems are what is wrong with a document, at most maxProblems of it.
type Problems []Problem

// Error returns a line for each.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

func (ps Problems) full() bool { return len(ps) >= maxProblems }

// add notes a problem while there is room.
func (ps *Problems) add(path, format string, args ...any) {
	if !ps.full() {
		*ps = append(*ps, Problem{path, fmt.Sprintf(format, args...)})
	}
}

// check notes an error of the nouns.
func (ps *Problems) check(path string, err error) {
	if err != nil {
		ps.add(path, "%v", err)
	}
}

// err returns nil without problems, else an error of KindInvalid that wraps them;
// what names what has them.
func (ps Problems) err(what string) error {
	if len(ps) == 0 {
		return nil
	}
	return mvm.Errorf(mvm.KindInvalid, "%s: %w", what, ps)
}

// clip bounds a hostile text before it is put into a problem.
func clip(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return s
}
