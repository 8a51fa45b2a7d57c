package stricttoml

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"mvm"
)

// Problem is one thing that is wrong with a file.
type Problem struct {
	File   string
	Line   int    // from 1; 0 when the problem has no place in the file
	Column int    // from 1, in characters
	Key    string // "pools[1].vcpus"; empty for a syntax error
	Text   string

	param string // of a template, whose value it is; empty: none
}

// Error returns "file:line:column: key: text".
func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Text)
	return b.String()
}

// Problems are all that is wrong with a file, in its order.
type Problems []*Problem

// Error returns a line for each.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the problems one by one.
func (ps Problems) Unwrap() []error {
	errs := make([]error, len(ps))
	for i, p := range ps {
		errs[i] = p
	}
	return errs
}

// maxProblems bounds what is told of one file.
const maxProblems = 100

// Err returns nil without problems, else an error of KindInvalid that wraps them.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	slices.SortStableFunc(ps, func(a, b *Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Key, b.Key))
	})
	if len(ps) > maxProblems {
		more := len(ps) - maxProblems
		ps = append(ps[:maxProblems:maxProblems], &Problem{File: ps[0].File, Text: fmt.Sprintf("and %d more problems", more)})
	}
	return mvm.Errorf(mvm.KindInvalid, "%w", ps)
}

// Without leaves out what is wrong with values of the parameters.
func (ps Problems) Without(params map[string]bool) Problems {
	return slices.DeleteFunc(ps, func(p *Problem) bool { return params[p.param] })
}

// Clip bounds a hostile text before it is put into a problem.
func Clip(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return s
}
