package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strconv"
	"strings"
)

// form is how a bug is written beside what it replaces.
type form int

const (
	value     form = iota // a value of a type
	statement             // a statement in a block
	simple                // a statement where only a simple one can be
)

// site is a bug that can be planted: what is between two offsets of a file becomes
// something else.
type site struct {
	pkg  *source
	form form
	typ  types.Type // of a value

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
func (p *source) find() []site {
	var all []site
	seen := map[string]int{}
	for _, f := range p.files {
		w := &walker{file: f, pkg: p}
		for _, d := range f.syntax.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
				w.fn, w.inner = fn, nil
				ast.Inspect(fn.Body, w.enter)
			}
		}
		for _, s := range w.sites {
			name := s.name()
			s.again = seen[name]
			seen[name]++
			all = append(all, s)
		}
	}
	return all
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
	pkg   *source
	file  *file
	fn    *ast.FuncDecl
	inner []*ast.FuncLit
	above []ast.Node // from the function's body down to the node
	sites []site
}

// swaps are operators that are easily mistaken for each other.
var swaps = map[token.Token]token.Token{
	token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR, token.EQL: token.NEQ, token.NEQ: token.EQL,
	token.LAND: token.LOR, token.LOR: token.LAND, token.ADD: token.SUB, token.SUB: token.ADD,
}

// enter visits the node and keeps what is above it.
func (w *walker) enter(n ast.Node) bool {
	if n == nil {
		w.above = w.above[:len(w.above)-1]
		return true
	}
	if !w.visit(n) {
		return false
	}
	w.above = append(w.above, n)
	return true
}

func (w *walker) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.FuncLit:
		w.inner = append(w.inner, n)
	case *ast.IfStmt:
		w.value("negate", n.Cond, types.Typ[types.Bool], "!("+w.text(n.Cond)+")")
		if n.Else == nil {
			w.value("never", n.Cond, types.Typ[types.Bool], "("+w.text(n.Cond)+") && false")
		}
	case *ast.BinaryExpr:
		if to, ok := swaps[n.Op]; ok && !w.concatenates(n) {
			w.operator(n, to)
		}
	case *ast.ExprStmt:
		if _, ok := n.X.(*ast.CallExpr); ok && !w.says(n.X) {
			w.statement("leave out", n, "")
		}
	case *ast.DeferStmt:
		w.statement("leave out", n, "")
	case *ast.IncDecStmt:
		w.statement("leave out", n, "")
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			w.assign(n)
		}
	case *ast.BranchStmt:
		if n.Tok == token.CONTINUE && n.Label == nil {
			w.statement("loop", n, "break")
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
	return w.file.text[w.offset(n.Pos()):w.offset(n.End())]
}

func (w *walker) offset(p token.Pos) int { return w.pkg.fset.Position(p).Offset }

// value plants another value of the type.
func (w *walker) value(kind string, n ast.Node, typ types.Type, with string) {
	if typ == nil {
		return
	}
	w.add(site{kind: kind, form: value, typ: types.Default(typ), with: with}, n)
}

// statement plants another statement, or none.
func (w *walker) statement(kind string, n ast.Node, with string) {
	s := site{kind: kind, form: simple, with: with}
	switch up := w.above[len(w.above)-1].(type) {
	case *ast.BlockStmt, *ast.LabeledStmt, *ast.CaseClause:
		s.form = statement
	case *ast.CommClause:
		if up.Comm == n {
			return // what a select waits for
		}
		s.form = statement
	}
	w.add(s, n)
}

func (w *walker) add(s site, n ast.Node) {
	s.pkg, s.file, s.function = w.pkg, w.file.name, w.name()
	s.line, s.from, s.to = w.pkg.fset.Position(n.Pos()).Line, w.offset(n.Pos()), w.offset(n.End())
	s.was = strings.Join(strings.Fields(w.file.text[s.from:s.to]), " ")
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
	w.value("operator", n, w.pkg.info.TypeOf(n), w.text(n.X)+" "+to.String()+" "+w.text(n.Y))
}

// concatenates reports whether + joins strings.
func (w *walker) concatenates(n *ast.BinaryExpr) bool {
	b, ok := w.pkg.info.TypeOf(n).Underlying().(*types.Basic)
	return n.Op == token.ADD && ok && b.Info()&types.IsString != 0
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
	w.statement("leave out", n, "")
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
	w.value("drop error", last, types.Universe.Lookup("error").Type(), with)
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
	if n.Kind != token.INT || w.meansNothing(n) {
		return
	}
	v, err := strconv.ParseInt(n.Value, 10, 64)
	if err != nil {
		return // a mask, or a mode
	}
	w.value("constant", n, w.pkg.info.TypeOf(n), strconv.FormatInt(v+1, 10))
}

// meansNothing reports whether nobody can see the number: it comes with an error, which is
// all that counts then, it is the room in a channel that has room anyway, or it is of a
// deadline long ago.
func (w *walker) meansNothing(n *ast.BasicLit) bool {
	switch up := w.above[len(w.above)-1].(type) {
	case *ast.ReturnStmt:
		last, isName := up.Results[len(up.Results)-1].(*ast.Ident)
		return w.endsInError(up) && up.Results[len(up.Results)-1] != ast.Expr(n) && !(isName && last.Name == "nil")
	case *ast.CallExpr:
		if w.text(up.Fun) == "time.Unix" {
			return true
		}
		if len(up.Args) == 2 && up.Args[1] == ast.Expr(n) && n.Value != "0" {
			_, channel := w.pkg.info.TypeOf(up.Args[0]).Underlying().(*types.Chan)
			return channel
		}
	}
	return false
}
