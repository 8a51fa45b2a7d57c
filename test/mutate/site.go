package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// site is a bug that can be planted: what is between two offsets of a file becomes
// something else.
type site struct {
	file     string // slash-separated, relative to the module
	function string
	kind     string
	line     int
	from, to int
	with     string
	was      string // what it replaces, in one line
	again    int    // of bugs that are otherwise alike, which one
}

// name says which bug it is, whatever line it is on.
func (s site) name() string {
	n := strings.Join([]string{s.file, s.function, s.kind, s.was}, " | ")
	if s.again > 0 {
		n += " #" + strconv.Itoa(s.again+1)
	}
	return n
}

// find lists the bugs that can be planted in a package.
func find(root, pkg string) ([]site, error) {
	files, err := filepath.Glob(filepath.Join(root, pkg, "*.go"))
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("there is no Go file in %s", pkg)
	}
	if err != nil {
		return nil, err
	}
	var all []site
	seen := map[string]int{}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, src, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		w := &walker{file: pkg + "/" + filepath.Base(path), src: string(src), fset: fset}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
				w.fn = fn
				ast.Inspect(fn.Body, w.visit)
			}
		}
		for _, s := range w.sites {
			s.again = seen[s.name()]
			seen[s.name()]++
			all = append(all, s)
		}
	}
	return all, nil
}

// order puts the bugs in the seed's order: each kind in turn, so that the most frequent
// kind does not crowd out the others. Where a bug comes is decided by its name, so a
// change elsewhere in the package leaves the order as it is.
func order(all []site, seed uint64, only string) []site {
	kinds := map[string][]site{}
	for _, s := range all {
		if strings.Contains(s.name(), only) {
			kinds[s.kind] = append(kinds[s.kind], s)
		}
	}
	hash := func(s site) uint64 {
		sum := sha256.Sum256(fmt.Appendf(nil, "%d %s", seed, s.name()))
		return binary.BigEndian.Uint64(sum[:])
	}
	type placed struct {
		site
		round int
		hash  uint64
	}
	var out []placed
	for _, sites := range kinds {
		slices.SortFunc(sites, func(a, b site) int { return cmp.Compare(hash(a), hash(b)) })
		for i, s := range sites {
			out = append(out, placed{s, i, hash(s)})
		}
	}
	slices.SortFunc(out, func(a, b placed) int { return cmp.Or(cmp.Compare(a.round, b.round), cmp.Compare(a.hash, b.hash)) })
	ordered := make([]site, len(out))
	for i, p := range out {
		ordered[i] = p.site
	}
	return ordered
}

// walker finds the bugs in a file.
type walker struct {
	file, src string
	fset      *token.FileSet
	fn        *ast.FuncDecl
	inner     []*ast.FuncLit
	sites     []site
}

// swaps are operators that are easily mistaken for each other.
var swaps = map[token.Token]token.Token{
	token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR, token.EQL: token.NEQ, token.NEQ: token.EQL,
	token.LAND: token.LOR, token.LOR: token.LAND, token.ADD: token.SUB, token.SUB: token.ADD,
}

func (w *walker) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.FuncLit:
		w.inner = append(w.inner, n)
	case *ast.IfStmt:
		w.add("negate", n.Cond.Pos(), n.Cond.End(), "!("+w.text(n.Cond)+")")
		if n.Else == nil {
			w.add("never", n.Cond.Pos(), n.Cond.End(), "("+w.text(n.Cond)+") && false")
		}
	case *ast.BinaryExpr:
		if to, ok := swaps[n.Op]; ok && !w.concatenates(n) {
			w.operator(n, to)
		}
	case *ast.ExprStmt:
		if _, ok := n.X.(*ast.CallExpr); ok && !w.says(n.X) {
			w.add("leave out", n.Pos(), n.End(), "")
		}
	case *ast.DeferStmt:
		w.add("leave out", n.Pos(), n.End(), "")
	case *ast.IncDecStmt:
		w.add("leave out", n.Pos(), n.End(), "")
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			w.assign(n)
		}
	case *ast.BranchStmt:
		if n.Tok == token.CONTINUE && n.Label == nil {
			w.add("loop", n.Pos(), n.End(), "break")
		}
	case *ast.ReturnStmt:
		w.returns(n)
	case *ast.BasicLit:
		w.constant(n)
	case *ast.CallExpr:
		return !w.says(n) // what is said in a log or in an error's text is no bug here
	}
	return true
}

// text is the source of the node.
func (w *walker) text(n ast.Node) string {
	return w.src[w.fset.Position(n.Pos()).Offset:w.fset.Position(n.End()).Offset]
}

func (w *walker) add(kind string, from, to token.Pos, with string) {
	p := w.fset.Position(from)
	s := site{file: w.file, function: w.name(), kind: kind, line: p.Line, from: p.Offset, to: w.fset.Position(to).Offset, with: with}
	s.was = strings.Join(strings.Fields(w.src[s.from:s.to]), " ")
	if len(s.was) > 70 {
		s.was = s.was[:70] + "…"
	}
	w.sites = append(w.sites, s)
}

// name is the function's, with its receiver.
func (w *walker) name() string {
	if w.fn.Recv == nil || len(w.fn.Recv.List) == 0 {
		return w.fn.Name.Name
	}
	return "(" + w.text(w.fn.Recv.List[0].Type) + ")." + w.fn.Name.Name
}

// operator swaps one.
func (w *walker) operator(n *ast.BinaryExpr, to token.Token) {
	w.add("operator", n.Pos(), n.End(), w.text(n.X)+" "+to.String()+" "+w.text(n.Y))
}

// concatenates reports whether + may join strings: there is no other way to tell without
// types, and a bug that does not compile costs time.
func (w *walker) concatenates(n *ast.BinaryExpr) bool {
	return n.Op == token.ADD && strings.ContainsAny(w.text(n), "\"`")
}

// says reports whether the call only tells people something.
func (w *walker) says(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	switch sel.Sel.Name {
	case "Debug", "Info", "Warn", "Error", "Log":
		return strings.Contains(strings.ToLower(w.text(sel.X)), "log")
	case "Errorf", "WithFix":
		return true
	}
	return false
}

// assign drops an assignment.
func (w *walker) assign(n *ast.AssignStmt) {
	for _, l := range n.Lhs {
		if id, ok := l.(*ast.Ident); ok && id.Name == "_" {
			return
		}
	}
	w.add("leave out", n.Pos(), n.End(), "")
}

// returns drops an error.
func (w *walker) returns(n *ast.ReturnStmt) {
	if len(n.Results) == 0 || !w.endsInError(n) {
		return
	}
	last := n.Results[len(n.Results)-1]
	if id, ok := last.(*ast.Ident); ok && id.Name == "nil" {
		return
	}
	if len(n.Results) == 1 && w.results(n) != 1 {
		return // a call with several results
	}
	with := "nil"
	if _, ok := last.(*ast.CallExpr); ok && !w.says(last) && !makesError(w.text(last)) {
		with = "func() error { _ = " + w.text(last) + "; return nil }()" // what it does is done
	}
	w.add("drop error", last.Pos(), last.End(), with)
}

// makesError reports whether the call only makes an error.
func makesError(call string) bool {
	for _, p := range []string{"errors.", "fmt.Errorf", "mvm.Errorf"} {
		if strings.HasPrefix(call, p) {
			return true
		}
	}
	return strings.Contains(call, ".WithFix(")
}

// around is the type of the function that the node is in.
func (w *walker) around(n ast.Node) *ast.FuncType {
	t := w.fn.Type
	for _, f := range w.inner {
		if f.Pos() <= n.Pos() && n.End() <= f.End() {
			t = f.Type // the last one is the innermost
		}
	}
	return t
}

func (w *walker) results(n ast.Node) (count int) {
	r := w.around(n).Results
	if r == nil {
		return 0
	}
	return r.NumFields()
}

func (w *walker) endsInError(n ast.Node) bool {
	r := w.around(n).Results
	if r == nil || len(r.List) == 0 {
		return false
	}
	id, ok := r.List[len(r.List)-1].Type.(*ast.Ident)
	return ok && id.Name == "error"
}

// constant changes a number by one.
func (w *walker) constant(n *ast.BasicLit) {
	if n.Kind != token.INT {
		return
	}
	v, err := strconv.ParseInt(n.Value, 10, 64)
	if err != nil {
		return // a mask, or a mode
	}
	w.add("constant", n.Pos(), n.End(), strconv.FormatInt(v+1, 10))
}
