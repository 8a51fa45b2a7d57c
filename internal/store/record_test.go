package store_test

import (
	_ "embed"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"mvm"
	"mvm/internal/limits"
	"mvm/internal/store"
	"mvm/internal/testenv/filled"
)

// notKept are the fields of nouns that are measured or told, and not on disk.
var notKept = map[string]bool{"Instance.Idle": true, "Instance.Health": true, "Instance.Stalled": true, "Instance.Unlimited": true, "Instance.Backlog": true, "Instance.Building": true,
	"Pool.Instances": true, "Pool.InForce": true, "Pool.Warnings": true, "Pool.Health": true, "Pool.Building": true}

func nouns() []any {
	return []any{mvm.Tenant{}, mvm.Pool{}, mvm.Instance{}, mvm.Transition{}, mvm.Event{}}
}

// form is the form on disk of nouns with all fields set, a line for each. It was made from the
// nouns' own JSON when that was what the file held. A field that is added adds to it; another
// change needs a migration.
//
//go:embed testdata/records.json
var form string

// TestRecordsLoseNothing: every field of a noun, but for those that are not kept, is on disk
// in the form that it has always had, and comes back.
func TestRecordsLoseNothing(t *testing.T) {
	same := cmp.Options{cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}, netip.AddrPort{})}
	again := func(t *testing.T, noun any) []byte {
		t.Helper()
		raw, err := store.RecordJSON(noun)
		if err != nil {
			t.Fatal(err)
		}
		back, err := store.NounOf(noun, raw)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(noun, back, same); diff != "" {
			t.Errorf("read again (-want +got):\n%s", diff)
		}
		return raw
	}
	lines := strings.Split(strings.TrimSpace(form), "\n")
	for n, noun := range nouns() {
		t.Run(reflect.TypeOf(noun).Name(), func(t *testing.T) {
			v := reflect.New(reflect.TypeOf(noun)).Elem()
			again(t, v.Interface())
			filled.Set(t, v, "", notKept)
			if diff := cmp.Diff(lines[n], string(again(t, v.Interface()))); diff != "" {
				t.Errorf("on disk (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSelectorsOnDisk: each kind has the form that it has always had, and none other is read.
func TestSelectorsOnDisk(t *testing.T) {
	for want, s := range map[string]mvm.Selector{
		`"any"`: {Kind: mvm.SelectAny}, `"least_connections"`: {Kind: mvm.SelectLeastConnections},
		`{"by_ip":"10.0.0.1"}`:                  {Kind: mvm.SelectByIP, IP: netip.MustParseAddr("10.0.0.1")},
		`{"by_key":{"from":"header:x\u003c1"}}`: {Kind: mvm.SelectByKey, From: "header:x<1"},
	} {
		pool := mvm.Pool{Spec: mvm.PoolSpec{Routes: &mvm.RoutingTable{Routes: []mvm.Route{{To: mvm.Target{Selector: s}}}}}}
		raw, err := store.RecordJSON(pool)
		if err != nil || !strings.Contains(string(raw), `"instance_selector":`+want) {
			t.Errorf("%+v: %s, %v; want %s in it", s, raw, err, want)
		}
		back, err := store.NounOf(pool, raw)
		if p, ok := back.(mvm.Pool); err != nil || !ok || p.Spec.Routes.Routes[0].To.Selector != s {
			t.Errorf("%+v came back as %+v, %v", s, back, err)
		}
	}
	if back, err := store.NounOf(mvm.Pool{}, []byte(`{"spec":{"routes":{"routes":[{"target":{"instance_selector":{"by_name":"x"}}}]}}}`)); err == nil {
		t.Errorf("a selector that is none is read as %+v", back)
	}
}

// TestMeasuredIsNotKept: what is measured or told of an instance or pool is not on disk.
func TestMeasuredIsNotKept(t *testing.T) {
	for want, noun := range map[string]any{
		"instance": mvm.Instance{Idle: &mvm.IdleStatus{}, Health: &mvm.Health{}, Stalled: "no space", Unlimited: "no cgroup", Building: "b-1"},
		"pool":     mvm.Pool{Instances: map[mvm.State]int{mvm.StateWarm: 1}, InForce: mvm.Limits{CPUPercent: 1}, Warnings: []string{"w"}, Health: &mvm.PoolHealth{}, Building: "b-1"},
	} {
		raw, err := store.RecordJSON(noun)
		bare, err2 := store.RecordJSON(reflect.Zero(reflect.TypeOf(noun)).Interface())
		if err != nil || err2 != nil || string(raw) != string(bare) {
			t.Errorf("%s: %s on disk, want %s: %v, %v", want, raw, bare, err, err2)
		}
	}
}

// TestTenantOfBeforeHasNoCeilings: a record that says nothing of ceilings has the highest, and
// one that was written with the defaults keeps them.
func TestTenantOfBeforeHasNoCeilings(t *testing.T) {
	for text, want := range map[string]mvm.Limits{`{"id":"acme"}`: limits.None(), `{"id":"acme","ceilings":{}}`: {}, `{"id":"acme","ceilings":{"cpu_weight":7}}`: {CPUWeight: 7}} {
		back, err := store.NounOf(mvm.Tenant{}, []byte(text))
		if of, ok := back.(mvm.Tenant); err != nil || !ok || of.Ceilings != want {
			t.Errorf("%s is %+v, %v; want ceilings %+v", text, back, err, want)
		}
	}
}
