package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// module is the path of the module.
const module = "mvm"

// figures are what is measured of a module.
type figures struct {
	lines     map[string]int // by package, "." is the root
	imports   map[string][]string
	functions []function // the shortest first
}

// function is one function, by its length in lines.
type function struct {
	name  string
	lines int
}

// measure reads the files of the module that are neither tests nor testdata.
func measure(dir string) (*figures, error) {
	f := &figures{lines: map[string]int{}, imports: map[string][]string{}}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && p != dir && (name == "testdata" || name == "bin" || name[0] == '.' || name[0] == '_') {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		return f.add(filepath.ToSlash(rel), p)
	})
	if err == nil && len(f.lines) == 0 {
		err = fmt.Errorf("no Go files in %s", dir)
	}
	slices.SortFunc(f.functions, func(a, b function) int { return cmp.Or(cmp.Compare(a.lines, b.lines), cmp.Compare(a.name, b.name)) })
	return f, err
}

// add measures one file.
func (f *figures) add(rel, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, file, text, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	pkg := path.Dir(rel)
	f.lines[pkg] += strings.Count(string(text), "\n")
	for _, i := range parsed.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return err
		}
		if rest, ok := strings.CutPrefix(p, module+"/"); ok {
			f.imports[pkg] = append(f.imports[pkg], rest)
		} else if p == module {
			f.imports[pkg] = append(f.imports[pkg], ".")
		}
	}
	for _, d := range parsed.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1
			f.functions = append(f.functions, function{rel + " " + fn.Name.Name, n})
		}
	}
	return nil
}

// chain is the longest chain of imports, from the package that imports to the one that
// imports nothing of ours.
func (f *figures) chain() []string {
	known := map[string][]string{}
	var from func(pkg string) []string
	from = func(pkg string) []string {
		if c, ok := known[pkg]; ok {
			return c
		}
		var longest []string
		for _, i := range slices.Sorted(slices.Values(f.imports[pkg])) {
			if c := from(i); len(c) > len(longest) {
				longest = c
			}
		}
		known[pkg] = append([]string{pkg}, longest...)
		return known[pkg]
	}
	var longest []string
	for _, pkg := range slices.Sorted(maps.Keys(f.lines)) {
		if c := from(pkg); len(c) > len(longest) {
			longest = c
		}
	}
	return longest
}

// largest are the packages, the largest first.
func (f *figures) largest() []string {
	return slices.SortedFunc(maps.Keys(f.lines), func(a, b string) int {
		return cmp.Or(cmp.Compare(f.lines[b], f.lines[a]), cmp.Compare(a, b))
	})
}

// p95 is the length that 95 % of the functions do not exceed.
func (f *figures) p95() int {
	if len(f.functions) == 0 {
		return 0
	}
	return f.functions[(len(f.functions)*95+99)/100-1].lines
}

// shown is how a package is called in the text.
func shown(pkg string) string {
	if pkg == "." {
		return module
	}
	return strings.TrimPrefix(pkg, "internal/")
}

// listed is how many packages the text has of those by size.
const listed = 12

// text is a table of the figures in Markdown.
func (f *figures) text() string {
	total := 0
	for _, n := range f.lines {
		total += n
	}
	chain := f.chain()
	names := make([]string, len(chain))
	for n, p := range chain {
		names[n] = shown(p)
	}
	var sizes []string
	for _, p := range f.largest()[:min(listed, len(f.lines))] {
		sizes = append(sizes, fmt.Sprintf("%s %d", shown(p), f.lines[p]))
	}
	var b strings.Builder
	row := func(what string, v any) { fmt.Fprintf(&b, "| %s | %v |\n", what, v) }
	row("figure", "now")
	row("---", "---")
	row("packages", len(f.lines))
	row("lines, without tests", total)
	row("longest import chain", fmt.Sprintf("%d imports: %s", len(chain)-1, strings.Join(names, " → ")))
	row("largest packages, in lines", strings.Join(sizes, ", "))
	if n := len(f.functions); n > 0 {
		last := f.functions[n-1]
		row("functions", n)
		row("95 % of them have at most", fmt.Sprintf("%d lines", f.p95()))
		row("the longest", fmt.Sprintf("%d lines, `%s`", last.lines, last.name))
	}
	return b.String()
}

// The marks between which a page has the figures.
const (
	beginMark = "<!-- figures: make figures -->\n"
	endMark   = "<!-- figures end -->\n"
)

// put returns the page with the text between its marks.
func put(page, text string) (string, error) {
	before, rest, ok := strings.Cut(page, beginMark)
	_, after, ends := strings.Cut(rest, endMark)
	if !ok || !ends {
		return "", fmt.Errorf("no marks: want %q and %q", beginMark, endMark)
	}
	return before + beginMark + text + endMark + after, nil
}
