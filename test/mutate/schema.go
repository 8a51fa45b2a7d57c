package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A schema is source that has many bugs, of which a variable of the environment chooses
// one when the program starts. So the tests of a package are compiled once.

// The variables say which bug it is, and where to write down which bugs were come upon.
const (
	chosenVar  = "MVM_MUTANT"
	reachedVar = "MVM_MUTANTS_REACHED"
)

// chooser is the source that is added to each package.
const chooser = `package %s

import (
	"os"
	"strconv"
	"sync/atomic"
)

var (
	mutantChosen, _ = strconv.Atoi(os.Getenv("` + chosenVar + `"))
	mutantLog       = os.Getenv("` + reachedVar + `")
	mutantReached   [%d]atomic.Bool
)

// mutant reports whether bug n is the chosen one.
func mutant(n int) bool {
	if mutantLog != "" && !mutantReached[n].Swap(true) {
		if f, err := os.OpenFile(mutantLog, os.O_APPEND|os.O_WRONLY, 0); err == nil {
			_, _ = f.WriteString(strconv.Itoa(n) + "\n")
			_ = f.Close()
		}
	}
	return n == mutantChosen
}
`

// numbered is a bug and its number, from 1.
type numbered struct {
	site
	n int
}

// span is where a bug came to be in the schema.
type span struct {
	from, to, n int
	ends        bool // without it, a function may lack its last return
}

// writer writes one file of a schema.
type writer struct {
	file    *file
	pkg     *source
	out     strings.Builder
	spans   []span
	imports map[string]string // path to name
}

// write returns the file with all of the bugs.
func (w *writer) write(sites []numbered) string {
	slices.SortStableFunc(sites, func(a, b numbered) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(b.to, a.to)) })
	// Imports come behind the package's name, in the same line.
	at := w.pkg.fset.Position(w.file.syntax.Name.End()).Offset
	w.imports = map[string]string{}
	for _, s := range sites {
		if s.form == value {
			types.TypeString(s.typ, w.qualify)
		}
	}
	w.out.WriteString(w.file.text[:at])
	for path, name := range w.imports {
		fmt.Fprintf(&w.out, "; import %s %q", name, path)
	}
	w.part(at, len(w.file.text), sites)
	return w.out.String()
}

// part writes what is between two offsets, with the bugs that are there.
func (w *writer) part(from, to int, sites []numbered) {
	for len(sites) > 0 {
		first := sites[0]
		same, inner := 1, 0
		for same < len(sites) && sites[same].from == first.from && sites[same].to == first.to {
			same++
		}
		for same+inner < len(sites) && sites[same+inner].from < first.to {
			inner++
		}
		w.out.WriteString(w.file.text[from:first.from])
		began := w.out.Len()
		w.choice(sites[:same], sites[same:same+inner])
		for _, s := range sites[:same] {
			w.spans = append(w.spans, span{began, w.out.Len(), s.n, s.kind == "loop" || strings.HasPrefix(s.was, "panic(")})
		}
		from, sites = first.to, sites[same+inner:]
	}
	w.out.WriteString(w.file.text[from:to])
}

// choice writes bugs that replace the same text.
func (w *writer) choice(same, inner []numbered) {
	s := same[0]
	if s.form == value {
		fmt.Fprintf(&w.out, "func() %s { ", types.TypeString(s.typ, w.qualify))
		for _, one := range same {
			fmt.Fprintf(&w.out, "if mutant(%d) { return %s }; ", one.n, one.with)
		}
		w.out.WriteString("return ")
		w.part(s.from, s.to, inner)
		w.out.WriteString(" }()")
		return
	}
	if s.form == simple {
		w.out.WriteString("func() { ")
	}
	fmt.Fprintf(&w.out, "if mutant(%d) { %s } else { ", s.n, s.with)
	w.part(s.from, s.to, inner)
	w.out.WriteString(" }")
	if s.form == simple {
		w.out.WriteString(" }()")
	}
}

// qualify names a package so that the file knows it.
func (w *writer) qualify(p *types.Package) string {
	if p == w.pkg.types || p.Path() == w.pkg.path {
		return ""
	}
	if w.imports[p.Path()] == "" {
		w.imports[p.Path()] = "mutant" + strconv.Itoa(len(w.imports)) + p.Name()
	}
	return w.imports[p.Path()]
}

// schema writes the package with the bugs, and returns the files by the paths that they
// stand for. Bugs that do not compile are left out, and named.
func (p *source) schema(sites []numbered) (texts map[string]string, bad []numbered, err error) {
	for {
		var blamed map[int]bool
		texts, blamed, err = p.try(sites)
		if err != nil || len(blamed) == 0 {
			return texts, bad, err
		}
		var good []numbered
		for _, s := range sites {
			if blamed[s.n] {
				bad = append(bad, s)
			} else {
				good = append(good, s)
			}
		}
		sites = good
	}
}

// try writes the package, and returns the bugs that do not compile.
func (p *source) try(sites []numbered) (texts map[string]string, blamed map[int]bool, err error) {
	texts, blamed = map[string]string{}, map[int]bool{}
	most := 0
	for _, s := range sites {
		most = max(most, s.n)
	}
	dir := filepath.Join(p.dir, "mutant_schema.go")
	texts[dir] = fmt.Sprintf(chooser, p.types.Name(), most+1)
	fset := token.NewFileSet()
	spans := map[string][]span{}
	syntax := map[string]*ast.File{}
	var all []*ast.File
	for _, f := range p.files {
		path := filepath.Join(p.dir, filepath.Base(f.name))
		var here []numbered
		for _, s := range sites {
			if s.file == f.name {
				here = append(here, s)
			}
		}
		w := &writer{file: f, pkg: p}
		text := w.write(here)
		if len(here) > 0 {
			texts[path] = text
		}
		spans[path] = w.spans
		if syntax[path], err = parser.ParseFile(fset, path, text, parser.SkipObjectResolution); err != nil {
			return nil, nil, fmt.Errorf("the schema of %s: %w", f.name, err)
		}
		all = append(all, syntax[path])
	}
	own, err := parser.ParseFile(fset, dir, texts[dir], parser.SkipObjectResolution)
	if err != nil {
		return nil, nil, err
	}
	var lost []error
	complain := func(err error) {
		var at types.Error
		if !errors.As(err, &at) || !blame(at, spans, syntax, blamed) {
			lost = append(lost, err)
		}
	}
	_, _ = (&types.Config{Importer: p.uses, Error: complain}).Check(p.path, fset, append(all, own), nil)
	if len(blamed) > 0 {
		return texts, blamed, nil
	}
	return texts, blamed, errors.Join(lost...)
}

// blame finds the bugs of which an error can be: the innermost around it, or those of the
// function that end it, or all of the function.
func blame(e types.Error, spans map[string][]span, syntax map[string]*ast.File, blamed map[int]bool) bool {
	at := e.Fset.Position(e.Pos)
	here := spans[at.Filename]
	if len(here) == 0 {
		return false
	}
	least := -1
	for _, s := range here {
		if s.from <= at.Offset && at.Offset < s.to && (least < 0 || s.to-s.from < least) {
			least = s.to - s.from
		}
	}
	any := false
	mark := func(is func(span) bool) bool {
		for _, s := range here {
			if is(s) {
				blamed[s.n], any = true, true
			}
		}
		return any
	}
	if mark(func(s span) bool { return s.from <= at.Offset && at.Offset < s.to && s.to-s.from == least }) {
		return true
	}
	from, to := 0, 0
	for _, d := range syntax[at.Filename].Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Pos() <= e.Pos && e.Pos < fn.End() {
			from, to = e.Fset.Position(fn.Pos()).Offset, e.Fset.Position(fn.End()).Offset
		}
	}
	inside := func(s span) bool { return from <= s.from && s.to <= to }
	return mark(func(s span) bool { return s.ends && inside(s) }) || mark(inside)
}

const overlayName = "overlay.json"

// overlay has the compiler see the texts in place of the files.
func overlay(dir string, texts map[string]string) error {
	replace := map[string]string{}
	for path, text := range texts {
		with := filepath.Join(dir, strconv.Itoa(len(replace))+".go")
		if err := os.WriteFile(with, []byte(text), 0o600); err != nil {
			return err
		}
		replace[path] = with
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": replace})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, overlayName), list, 0o600)
}
