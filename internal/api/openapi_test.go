package api_test

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"mvm"
	"mvm/internal/api"
)

// document is the schema that an agent gives, in which answers have no field that is
// not described.
func document(t *testing.T) *openapi3.T {
	t.Helper()
	text, err := start(t, &script{}).OpenAPI(ctxOf(t))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(text)
	if err == nil {
		err = doc.Validate(ctxOf(t))
	}
	if err != nil {
		t.Fatal(err)
	}
	no := false
	for name, s := range doc.Components.Schemas {
		if !strings.HasSuffix(name, "Input") && s.Value.Properties != nil {
			s.Value.AdditionalProperties = openapi3.AdditionalProperties{Has: &no}
		}
	}
	return doc
}

// checker holds everything that goes over the wire to the schema.
type checker struct {
	checks sync.WaitGroup // those under way
	t      *testing.T
	doc    *openapi3.T
	paths  *http.ServeMux

	mu   sync.Mutex
	seen map[string]bool // operations, and "operation status"
}

func newChecker(t *testing.T) *checker {
	c := &checker{t: t, doc: document(t), paths: http.NewServeMux(), seen: map[string]bool{}}
	for path, item := range c.doc.Paths.Map() {
		for method := range item.Operations() {
			c.paths.HandleFunc(method+" "+path, func(http.ResponseWriter, *http.Request) {})
		}
	}
	return c
}

// recorder keeps what a handler answers.
type recorder struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	r.body.Write(p)
	return r.ResponseWriter.Write(p)
}

func (c *checker) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.checks.Add(1) // before the client has its answer
		defer c.checks.Done()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			c.t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		asked := r.Clone(r.Context())
		asked.Body = io.NopCloser(bytes.NewReader(body))
		rec := &recorder{ResponseWriter: w}
		next.ServeHTTP(rec, r)
		c.check(asked, rec)
	})
}

func (c *checker) check(r *http.Request, got *recorder) {
	_, pattern := c.paths.Handler(r)
	method, path, ok := strings.Cut(pattern, " ")
	if !ok {
		c.t.Errorf("the schema has no %s %s", r.Method, r.URL.Path)
		return
	}
	op := c.doc.Paths.Value(path).GetOperation(method)
	values := map[string]string{}
	for _, p := range op.Parameters {
		if p.Value.In == "path" {
			values[p.Value.Name] = "x"
		}
	}
	in := &openapi3filter.RequestValidationInput{Request: r, PathParams: values,
		Route: &routers.Route{Spec: c.doc, Path: path, PathItem: c.doc.Paths.Value(path), Method: method, Operation: op}}
	if got.status/100 != 4 {
		if err := openapi3filter.ValidateRequest(r.Context(), in); err != nil {
			c.t.Errorf("request %s %s: %v", method, r.URL, err)
		}
	}
	for name := range r.URL.Query() {
		if op.Parameters.GetByInAndName("query", name) == nil && got.status/100 != 4 {
			c.t.Errorf("request %s %s: parameter %s is not in the schema", method, r.URL, name)
		}
	}
	c.mu.Lock()
	c.seen[pattern], c.seen[pattern+" "+strconv.Itoa(got.status)] = true, true
	c.mu.Unlock()
	if got.status == 0 || got.status == http.StatusSwitchingProtocols {
		return // taken over, by exec
	}
	c.answer(pattern, op, got)
}

func (c *checker) answer(pattern string, op *openapi3.Operation, got *recorder) {
	resp := op.Responses.Value(strconv.Itoa(got.status))
	if resp == nil {
		c.t.Errorf("%s: status %d is not in the schema", pattern, got.status)
		return
	}
	kind := got.Header().Get("Content-Type")
	media := resp.Value.Content[kind]
	if media == nil {
		c.t.Errorf("%s: status %d has no content %s in the schema", pattern, got.status, kind)
		return
	}
	texts := []string{got.body.String()}
	if kind == "application/x-ndjson" {
		texts = strings.Split(strings.TrimSpace(got.body.String()), "\n")
	}
	for _, text := range texts {
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			c.t.Errorf("%s: %v in %q", pattern, err, text)
			continue
		}
		if err := media.Schema.Value.VisitJSON(v, openapi3.VisitAsResponse(), openapi3.EnableFormatValidation()); err != nil {
			c.t.Errorf("%s: answer %s: %v", pattern, text, err)
		}
	}
}

// checked serves svc, with everything held to the schema.
func (c *checker) checked(svc api.Service) *api.Client {
	cfg := api.ServerConfig{}
	socket, _ := serveWith(c.t, svc, cfg, func(s *api.Server) { s.Wrap(c.wrap) })
	return dial(c.t, socket)
}

// Every call and every error of the round-trip tests is as the schema says, and they
// use every operation.
func TestTheWireIsAsTheSchemaSays(t *testing.T) {
	c := newChecker(t)
	client := c.checked(&script{})
	if _, err := client.Version(ctxOf(t)); err != nil {
		t.Error(err)
	}
	if _, err := client.OpenAPI(ctxOf(t)); err != nil {
		t.Error(err)
	}
	for _, tc := range calls() {
		if _, err := tc.do(ctxOf(t), client, func(mvm.Progress) {}); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	if _, err := client.Copy(ctxOf(t), here, mvm.CopySpec{Path: "/data/x", In: true, Name: "x", Owners: true}, mvm.ExecIO{Stdin: strings.NewReader("x"), Stdout: io.Discard}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Exec(ctxOf(t), here, mvm.ExecSpec{Argv: []string{"cat"}, Env: []string{"A=b"}}, mvm.ExecIO{Stdin: strings.NewReader("x"), Stdout: io.Discard}); err != nil {
		t.Error(err)
	}
	kinds := enum(t, c.doc, "ErrorBody", "kind")
	for _, kind := range kinds {
		failing := c.checked(&script{err: mvm.Errorf(mvm.Kind(kind), "no such luck").WithFix("try harder")})
		for _, tc := range calls() {
			if _, err := tc.do(ctxOf(t), failing, nil); string(mvm.KindOf(err)) != kind {
				t.Errorf("%s: got %v, want kind %s", tc.name, err, kind)
			}
		}
	}
	c.checks.Wait()
	for _, pattern := range api.Routes() {
		if !c.seen[pattern] {
			t.Errorf("%s: no call of the round-trip tests uses it", pattern)
		}
	}
}

// The schema has every route and nothing else.
func TestTheSchemaHasEveryRoute(t *testing.T) {
	doc := document(t)
	var have []string
	ids := map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			have = append(have, method+" "+path)
			if ids[op.OperationID] {
				t.Errorf("operation %s is given twice", op.OperationID)
			}
			ids[op.OperationID] = true
			if a := fmt.Sprint(op.Extensions["x-mvm-access"]); !slices.Contains([]string{"all", "tenants", "operators"}, a) {
				t.Errorf("%s %s: access %q", method, path, a)
			}
		}
	}
	want := api.Routes()
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("the schema has\n%s\nthe routes are\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
}

func enum(t *testing.T, doc *openapi3.T, schema, field string) (values []string) {
	t.Helper()
	for _, v := range doc.Components.Schemas[schema].Value.Properties[field].Value.Enum {
		values = append(values, v.(string))
	}
	return values
}

// The values of closed sets in the schema are those of the constants in package mvm.
func TestTheSchemaHasEveryValue(t *testing.T) {
	doc := document(t)
	for kind, at := range map[string][2]string{"Kind": {"ErrorBody", "kind"}, "State": {"Instance", "state"}, "OpKind": {"OpRequestInput", "op"}, "Role": {"PoolSpec", "role"}} {
		have, want := enum(t, doc, at[0], at[1]), constants(t, kind)
		slices.Sort(have)
		slices.Sort(want)
		if len(want) == 0 || !slices.Equal(have, want) {
			t.Errorf("%s: the schema has %v, package mvm %v", kind, have, want)
		}
	}
}

// constants are the values of a string type in package mvm.
func constants(t *testing.T, kind string) (values []string) {
	t.Helper()
	files, err := filepath.Glob("../../*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			v, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			if id, ok := v.Type.(*ast.Ident); ok && id.Name == kind && len(v.Values) == 1 {
				if lit, ok := v.Values[0].(*ast.BasicLit); ok {
					s, _ := strconv.Unquote(lit.Value)
					values = append(values, s)
				}
			}
			return true
		})
	}
	return values
}

// What the schema forbids is what the server refuses.
func TestTheSchemaIsAsStrictAsTheServer(t *testing.T) {
	doc := document(t)
	for name, text := range map[string]string{
		"TenantSpecInput": `{"id":"a","idd":"b"}`, "OpRequestInput": `{"op":"fly"}`, "ExecSpecInput": `{"argv":"ls"}`,
		"PoolUpdateInput": `{"spec":{"id":"p","role":"worker","profile":"minimal","flake":"x","resources":{"cores":1}}}`,
	} {
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		if err := doc.Components.Schemas[name].Value.VisitJSON(v, openapi3.VisitAsRequest()); err == nil {
			t.Errorf("%s takes %s", name, text)
		}
	}
}

// TestNoNounIsSent: what is sent has types of its own, so that a noun may get other names. What
// writes itself as text, or as a selector, has one form everywhere.
func TestNoNounIsSent(t *testing.T) {
	own := []reflect.Type{reflect.TypeFor[encoding.TextMarshaler](), reflect.TypeFor[json.Marshaler]()}
	seen := map[reflect.Type]bool{}
	var look func(from string, typ reflect.Type)
	look = func(from string, typ reflect.Type) {
		if seen[typ] || slices.ContainsFunc(own, typ.Implements) {
			return
		}
		seen[typ] = true
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Array:
			look(from, typ.Elem())
		case reflect.Struct:
			if typ.PkgPath() == "mvm" {
				t.Errorf("%s sends the noun %s: give it a type in package wire", from, typ)
			}
			for n := range typ.NumField() {
				look(typ.String()+"."+typ.Field(n).Name, typ.Field(n).Type)
			}
		}
	}
	for _, typ := range api.WireTypes() {
		look("a route", typ)
	}
}
