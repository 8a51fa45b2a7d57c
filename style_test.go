package mvm_test

import (
	"go/ast"
	"go/token"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The sizes that a function and a file of the program may have at most.
const (
	maxFunctionLines = 90
	maxFileLines     = 600
)

func TestSizes(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		if n := strings.Count(s.text, "\n"); n > maxFileLines {
			t.Errorf("%s has %d lines, more than %d: split it by what its parts are about", s.path, n, maxFileLines)
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1
			if n > maxFunctionLines {
				t.Errorf("%s: %s has %d lines, more than %d", s.line(f.Pos()), f.Name.Name, n, maxFunctionLines)
			}
		}
	}
}

func TestNothingLeftToDo(t *testing.T) {
	marks := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)
	for _, s := range sources(t) {
		for i, line := range strings.Split(s.text, "\n") {
			if marks.MatchString(line) {
				t.Errorf("%s:%d: finish it, or write an issue: %s", s.path, i+1, strings.TrimSpace(line))
			}
		}
	}
}

func TestNoInit(t *testing.T) {
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s: init() runs behind everybody's back: do it where it is needed", s.line(f.Pos()))
			}
		}
	}
}

// constructors make values that nobody changes afterwards.
var constructors = []string{"errors.New", "fmt.Errorf", "fmt.Sprintf", "mvm.Errorf", "mvm.Away", "Errorf", "regexp.MustCompile",
	"netip.MustParseAddr", "netip.MustParsePrefix", "netip.AddrFrom4", "netip.PrefixFrom", "strings.NewReplacer",
	"lipgloss.NewStyle", "time.Unix", "crc32.MakeTable", "template.Must"}

// linked are variables that the linker sets (-ldflags -X).
var linked = map[string]bool{"cmd/mvm/version.go release": true, "cmd/mvm-guest/version.go release": true}

// seams are variables that tests alone set, by the function beside each: a file's operations are asked for by path
// in many packages, and to pass a seam to each of them would be for tests only.
var seams = map[string]string{"internal/sys/folder_seam.go folderSeam": "SeamFolders"}

// TestNoProgramSetsSeams: what is there for tests is called in tests only.
func TestNoProgramSetsSeams(t *testing.T) {
	for _, s := range sources(t) {
		for at, set := range seams {
			if file, _, _ := strings.Cut(at, " "); !s.test && s.path != file && strings.Contains(s.text, set+"(") {
				t.Errorf("%s calls %s, which is for tests", s.path, set)
			}
		}
	}
}

// TestNoGlobalState: a package-level variable is a name for a value. It has one
// from the start, of a kind that can't change by itself, and nothing in its package
// writes to it.
func TestNoGlobalState(t *testing.T) {
	written := map[string]map[string]string{} // package -> name -> where
	all := sources(t)
	for _, s := range all {
		if s.test {
			continue
		}
		if written[s.pkg()] == nil {
			written[s.pkg()] = map[string]string{}
		}
		maps.Copy(written[s.pkg()], writes(s))
	}
	for _, s := range all {
		if s.test {
			continue
		}
		for name, spec := range globals(s) {
			if where := written[s.pkg()][name]; where != "" {
				t.Errorf("%s: package-level %s is written at %s: pass it in", s.line(spec.Pos()), name, where)
			}
			if why := mutable(s, spec, name); why != "" && !linked[s.path+" "+name] && seams[s.path+" "+name] == "" {
				t.Errorf("%s: package-level %s %s: pass it in", s.line(spec.Pos()), name, why)
			}
		}
	}
}

// globals returns the package-level variables of the file by name.
func globals(s source) map[string]*ast.ValueSpec {
	vars := map[string]*ast.ValueSpec{}
	for _, d := range s.file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.VAR || embeds(g.Doc) {
			continue
		}
		for _, spec := range g.Specs {
			v := spec.(*ast.ValueSpec)
			for _, n := range v.Names {
				if n.Name != "_" && !embeds(v.Doc) {
					vars[n.Name] = v
				}
			}
		}
	}
	return vars
}

func embeds(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed ") })
}

// mutable says what about the variable can change; "" when nothing can.
func mutable(s source, spec *ast.ValueSpec, name string) string {
	if len(spec.Values) == 0 && text(s, spec.Type) == "time.Time" {
		return "" // the zero time has no other name
	}
	if len(spec.Values) == 0 {
		return "has no value of its own"
	}
	for i, n := range spec.Names {
		if n.Name != name || i >= len(spec.Values) {
			continue
		}
		switch v := spec.Values[i].(type) {
		case *ast.UnaryExpr:
			if v.Op == token.AND {
				return "is a pointer"
			}
		case *ast.CallExpr:
			if f := text(s, v.Fun); !slices.ContainsFunc(constructors, func(c string) bool { return f == c || strings.HasPrefix(f, c+"()") }) {
				return "comes from " + f + ", which is not among the constructors of style_test.go"
			}
		}
	}
	return ""
}

// text is the source of the node.
func text(s source, n ast.Node) string {
	return s.text[s.fset.Position(n.Pos()).Offset:s.fset.Position(n.End()).Offset]
}

// writes returns the names that statements of the file assign to, and where, when
// no function declares the name itself.
func writes(s source) map[string]string {
	out := map[string]string{}
	for _, d := range s.file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Body == nil {
			continue
		}
		local := locals(f)
		note := func(e ast.Expr) {
			if name := root(e); name != "" && !local[name] {
				out[name] = s.line(e.Pos())
			}
		}
		ast.Inspect(f.Body, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.AssignStmt:
				if n.Tok != token.DEFINE {
					for _, e := range n.Lhs {
						note(e)
					}
				}
			case *ast.IncDecStmt:
				note(n.X)
			case *ast.CallExpr:
				if id, ok := n.Fun.(*ast.Ident); ok && len(n.Args) > 0 && (id.Name == "delete" || id.Name == "clear") {
					note(n.Args[0])
				}
			}
			return true
		})
	}
	return out
}

// root is the variable that an expression to the left of an assignment begins with.
func root(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.IndexExpr:
		return root(e.X)
	case *ast.SelectorExpr:
		return root(e.X)
	case *ast.StarExpr:
		return root(e.X)
	case *ast.ParenExpr:
		return root(e.X)
	}
	return ""
}

// locals are the names that a function declares: receiver, parameters, results, variables.
func locals(f *ast.FuncDecl) map[string]bool {
	names := map[string]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Field:
			for _, id := range n.Names {
				names[id.Name] = true
			}
		case *ast.ValueSpec:
			for _, id := range n.Names {
				names[id.Name] = true
			}
		case *ast.AssignStmt:
			if n.Tok == token.DEFINE {
				for _, e := range n.Lhs {
					names[root(e)] = true
				}
			}
		case *ast.RangeStmt:
			if n.Tok == token.DEFINE {
				for _, e := range []ast.Expr{n.Key, n.Value} {
					if e != nil {
						names[root(e)] = true
					}
				}
			}
		}
		return true
	})
	return names
}

// raw says which files of the command line write sequences for the terminal and output of
// programs past the writers that show text of others safely.
var raw = map[string]string{
	"internal/cli/command/output.go":   "colours of tables, whose cells are made safe",
	"internal/cli/command/progress.go": "the line that changes, whose text is made safe",
	"internal/cli/instances/top.go":    "the table that is drawn anew, whose cells are made safe",
	"internal/cli/instances/logs.go":   "output of programs to a pipe, and its colours",
	"internal/cli/instances/exec.go":   "output of programs to a pipe, or to the terminal that it was given",
	"internal/cli/command/app.go":      "it asks whether there is a terminal behind a writer",
}

// TestOutputIsSafe: only the mains name the streams of the process, and only files with
// a reason write past display.Writer. See internal/display.
func TestOutputIsSafe(t *testing.T) {
	mains := []string{"cmd/mvm", "cmd/mvm-guest", "internal/host", "test/stubmodel", "test/demo", "test/figures", "test/mutate", "test/vm/workload"}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			switch x, name := text(s, sel.X), sel.Sel.Name; {
			case x == "os" && (name == "Stdout" || name == "Stderr") || x == "fmt" && strings.HasPrefix(name, "Print"):
				if !slices.Contains(mains, s.pkg()) {
					t.Errorf("%s: %s.%s is the terminal of whoever runs it: take a writer that makes text of others safe", s.line(n.Pos()), x, name)
				}
			case s.pkg() == "internal/cli" && (name == "Raw" || name == "Unwrap" && x != "errors") && raw[s.path] == "":
				t.Errorf("%s: %s writes past what makes text of others safe: print it, or give the reason in style_test.go", s.line(n.Pos()), name)
			}
			return true
		})
	}
}

// loggers are the functions whose arguments are keys and values of a log line.
var loggers = []string{"Debug", "Info", "Warn", "Error", "Log", "With", "warn", "complain"}

// TestErrorsHaveOneLogKey: in a log line an error is found under "error", whoever wrote it.
func TestErrorsHaveOneLogKey(t *testing.T) {
	isError := regexp.MustCompile(`(?:^|\.)(?:e|err|[a-z]+Err)(?:\.Error\(\))?$|^(?:withoutLog|clip|recordable)\((?:e|err)\.Error\(\)\)$`)
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			f, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !slices.Contains(loggers, f.Sel.Name) {
				return true
			}
			for i := 0; i+1 < len(call.Args); i++ {
				key, ok := call.Args[i].(*ast.BasicLit)
				if !ok || key.Kind != token.STRING || !isError.MatchString(text(s, call.Args[i+1])) {
					continue
				}
				if key.Value != `"error"` {
					t.Errorf("%s: the key of an error in a log line is \"error\", not %s", s.line(key.Pos()), key.Value)
				}
			}
			return true
		})
	}
}
