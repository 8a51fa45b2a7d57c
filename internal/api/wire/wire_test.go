package wire_test

import (
	_ "embed"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"mvm"
	"mvm/internal/api/wire"
	"mvm/internal/build"
	"mvm/internal/testenv/filled"
)

// form is what is sent of nouns with all fields set, a line for each of the types below. It was
// made from the nouns' own JSON when that was what was sent. A field that is added adds to it;
// another change breaks clients.
//
//go:embed testdata/forms.json
var form string

// plain has a value that any text is, but the word that is sent is none.
var plain = map[string]bool{"ChannelSelector.From": true}

// sent sends a noun with all fields set and reads it again.
func sent[W wire.Form[W, N], N any](t *testing.T) (reflect.Type, string) {
	t.Helper()
	again := func(noun N) string {
		var form W
		raw, err := json.Marshal(form.Of(noun))
		if err == nil {
			err = json.Unmarshal(raw, &form)
		}
		if err != nil {
			t.Fatalf("%T: %v", noun, err)
		}
		if diff := cmp.Diff(noun, form.Noun(), cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}, netip.AddrPort{})); diff != "" {
			t.Errorf("%T came back as another (-want +got):\n%s", noun, diff)
		}
		return string(raw)
	}
	v := reflect.New(reflect.TypeFor[N]()).Elem()
	filled.Set(t, v, "", plain)
	return reflect.TypeFor[W](), again(v.Interface().(N))
}

// TestFormsLoseNothing: every field of a noun is sent, by the name and in the order that it has
// always had, and comes back. Every type of the package is among them.
func TestFormsLoseNothing(t *testing.T) {
	seen := map[string]bool{}
	lines := strings.Split(strings.TrimSpace(form), "\n")
	check := func(w reflect.Type, got string) {
		reach(w, seen)
		if len(lines) == 0 {
			t.Fatalf("there is no form of %s", w)
		}
		if diff := cmp.Diff(lines[0], got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", w, diff)
		}
		lines = lines[1:]
	}
	check(sent[wire.TenantSpec, mvm.TenantSpec](t))
	check(sent[wire.Tenant, mvm.Tenant](t))
	check(sent[wire.TenantUpdate, mvm.TenantUpdate](t))
	check(sent[wire.Usage, mvm.Usage](t))
	check(sent[wire.PoolSpec, mvm.PoolSpec](t))
	check(sent[wire.Pool, mvm.Pool](t))
	check(sent[wire.PoolUpdate, mvm.PoolUpdate](t))
	check(sent[wire.Build, mvm.Build](t))
	check(sent[wire.Instance, mvm.Instance](t))
	check(sent[wire.Story, mvm.Story](t))
	check(sent[wire.OpRequest, mvm.OpRequest](t))
	check(sent[wire.ExecSpec, mvm.ExecSpec](t))
	check(sent[wire.CopySpec, mvm.CopySpec](t))
	check(sent[wire.LogLine, mvm.LogLine](t))
	check(sent[wire.InstanceStats, mvm.InstanceStats](t))
	check(sent[wire.InstanceUsage, mvm.InstanceUsage](t))
	check(sent[wire.AsideSnapshot, mvm.AsideSnapshot](t))
	check(sent[wire.Message, mvm.Message](t))
	check(sent[wire.Deployment, mvm.Deployment](t))
	check(sent[wire.PlanStep, mvm.PlanStep](t))
	check(sent[wire.ReconcileRequest, mvm.ReconcileRequest](t))
	check(sent[wire.Event, mvm.Event](t))
	check(sent[wire.AuditReport, mvm.AuditReport](t))
	check(sent[wire.NodeInfo, mvm.NodeInfo](t))
	check(sent[wire.NodeStats, mvm.NodeStats](t))
	check(sent[wire.NodeDisk, mvm.NodeDisk](t))
	check(sent[wire.NodeCheck, mvm.NodeCheck](t))
	check(sent[wire.Finding, mvm.Finding](t))
	check(sent[wire.Progress, mvm.Progress](t))
	check(sent[wire.BuildRun, build.Run](t))
	for _, name := range declared(t) {
		if !seen[name] {
			t.Errorf("%s is no part of what is checked here: add it", name)
		}
	}
}

// reach notes the types of the package that are in t.
func reach(t reflect.Type, seen map[string]bool) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Array:
		reach(t.Elem(), seen)
	case reflect.Struct:
		if t.PkgPath() != "mvm/internal/api/wire" || seen[t.Name()] {
			return
		}
		seen[t.Name()] = true
		for n := range t.NumField() {
			reach(t.Field(n).Type, seen)
		}
	}
}

// declared are the structs of the package.
func declared(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if f.Name.Name != "wire" {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.TypeSpec); ok {
				if _, is := s.Type.(*ast.StructType); is {
					names = append(names, s.Name.Name)
				}
			}
			return true
		})
	}
	return names
}

// TestNothingStaysNothing: JSON tells no list from an empty one, and so do the conversions.
func TestNothingStaysNothing(t *testing.T) {
	if got := (wire.Deployment{}).Of(mvm.Deployment{}); got.Pools != nil || got.Noun().Pools != nil {
		t.Errorf("no pools became %v", got.Pools)
	}
	if got := (wire.Deployment{}).Of(mvm.Deployment{Pools: []mvm.PoolSpec{}}); got.Pools == nil || got.Noun().Pools == nil {
		t.Error("an empty list of pools became none")
	}
}
