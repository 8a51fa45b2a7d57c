package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// named is a package, file or pattern of files between backticks.
var named = regexp.MustCompile("`((?:internal|cmd|test|agent|store|image|ingress|lifecycle|live|fleet|plan|recovery)/[a-z0-9_/.*-]+)`")

// TestArchitectureNamesWhatIsThere: what ARCHITECTURE.md names is in the tree.
func TestArchitectureNamesWhatIsThere(t *testing.T) {
	page, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, m := range named.FindAllStringSubmatch(string(page), -1) {
		seen++
		found := false
		for _, base := range []string{"..", "../internal"} {
			all, err := filepath.Glob(filepath.Join(base, strings.TrimSuffix(m[1], "/")))
			found = found || err == nil && len(all) > 0
		}
		if !found {
			t.Errorf("ARCHITECTURE.md names %s, which is not there", m[1])
		}
	}
	if seen < 50 {
		t.Errorf("ARCHITECTURE.md names %d packages and files, want the most of them", seen)
	}
}

// section returns the part of ARCHITECTURE.md below the heading, up to the next one.
func section(t *testing.T, heading string) string {
	t.Helper()
	page, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(page), "\n### "+heading+"\n")
	if !ok {
		t.Fatalf("ARCHITECTURE.md has no section %q", heading)
	}
	text, _, _ := strings.Cut(rest, "\n#")
	return text
}

// rows are the rows of a table, without its head, and their cells.
func rows(table string) (out [][]string) {
	for line := range strings.Lines(table) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "|") {
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for n := range cells {
				cells[n] = strings.TrimSpace(cells[n])
			}
			out = append(out, cells)
		}
	}
	return out[min(2, len(out)):]
}

// declares reports whether the file declares the function, "Type.Method" or "Function".
func declares(t *testing.T, file, name string) bool {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Error(err)
		return false
	}
	return slices.ContainsFunc(f.Decls, func(d ast.Decl) bool {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			return false
		}
		is := fn.Name.Name
		if fn.Recv != nil {
			of := fn.Recv.List[0].Type
			if star, ok := of.(*ast.StarExpr); ok {
				of = star.X
			}
			if id, ok := of.(*ast.Ident); ok {
				is = id.Name + "." + is
			}
		}
		return is == name
	})
}

// TestWhereThingsAre: each of the ten questions leads to a function that is there.
func TestWhereThingsAre(t *testing.T) {
	all := rows(section(t, "Where things are"))
	if len(all) != 10 {
		t.Errorf("%d questions, want 10", len(all))
	}
	for _, r := range all {
		file, fn := strings.Trim(r[1], "`"), strings.Trim(r[2], "`")
		if !declares(t, filepath.Join("../internal", file), fn) {
			t.Errorf("%q: %s does not declare %s", r[0], file, fn)
		}
	}
}

// importsOf are the packages of ours that the package imports, tests apart.
func importsOf(t *testing.T, pkg string) (out []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", pkg, "*.go"))
	if err != nil || len(files) == 0 {
		t.Errorf("ARCHITECTURE.md names package %s, which has no files: %v", pkg, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			path, _ := strconv.Unquote(i.Path.Value)
			if rel, ok := strings.CutPrefix(path, "mvm/"); ok {
				out = append(out, rel)
			}
		}
	}
	return out
}

var packageNamed = regexp.MustCompile("`(internal/[a-z0-9_/]+)`")

// TestFlowsAreInTheCode: each package of a flow is reached from one before it. One of them
// imports the other; or internal/agent joins both, by interfaces; or both speak the guest's
// protocol.
func TestFlowsAreInTheCode(t *testing.T) {
	const proto = "internal/guestproto"
	joined := []string{"internal/agent"}
	for _, r := range rows(section(t, "The parts of an agent")) {
		joined = append(joined, "internal/"+strings.Trim(r[0], "`"))
	}
	imports := map[string][]string{}
	of := func(pkg string) []string {
		if _, ok := imports[pkg]; !ok {
			imports[pkg] = importsOf(t, pkg)
		}
		return imports[pkg]
	}
	reaches := func(x, y string) bool {
		both := func(list func(string) bool) bool { return list(x) && list(y) }
		return slices.Contains(of(x), y) || slices.Contains(of(y), x) ||
			both(func(p string) bool { return slices.Contains(joined, p) }) ||
			both(func(p string) bool { return slices.Contains(of(p), proto) })
	}
	for _, r := range rows(section(t, "Flows")) {
		var before []string
		for _, m := range packageNamed.FindAllStringSubmatch(r[1], -1) {
			if len(before) > 0 && !slices.ContainsFunc(before, func(x string) bool { return reaches(x, m[1]) }) {
				t.Errorf("%s: nothing before %s reaches it: %s", r[0], m[1], strings.Join(before, ", "))
			}
			before = append(before, m[1])
		}
		if len(before) < 5 {
			t.Errorf("%s: %d packages", r[0], len(before))
		}
	}
}
