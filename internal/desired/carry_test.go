package desired_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"mvm"
	"mvm/internal/desired"
	"mvm/internal/limits"
)

func comparePrefix() cmp.Option {
	return cmp.Options{cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })}
}

// fill gives every field below v a value that is not its zero, and returns their paths.
func fill(t *testing.T, v reflect.Value, path string) []string {
	t.Helper()
	switch x := v.Addr().Interface().(type) {
	case *netip.Prefix:
		*x = netip.MustParsePrefix("10.9.8.0/24")
		return []string{path}
	case *netip.AddrPort:
		*x = netip.MustParseAddrPort("127.0.0.1:99")
		return []string{path}
	case *mvm.Selector:
		*x = mvm.Selector{Kind: mvm.SelectByKey, From: "path"}
		return []string{path}
	case *mvm.Role:
		*x = mvm.RoleGateway
		return []string{path}
	}
	switch v.Kind() {
	case reflect.Struct:
		var all []string
		for i := range v.NumField() {
			all = append(all, fill(t, v.Field(i), path+"."+v.Type().Field(i).Name)...)
		}
		return all
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return fill(t, v.Elem(), path)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		return fill(t, v.Index(0), path+"[]")
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("k"), reflect.ValueOf("v"))
	case reflect.String:
		v.SetString("w")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int:
		v.SetInt(7)
	default:
		t.Fatalf("%s: this test knows no value of %s", path, v.Type())
	}
	return []string{path}
}

// TestNothingOfAPoolIsLost: every field that a tenant or pool can have, new ones too,
// goes through a document's JSON and back.
func TestNothingOfAPoolIsLost(t *testing.T) {
	var pool mvm.PoolSpec
	var spec mvm.TenantSpec
	if n := len(fill(t, reflect.ValueOf(&pool).Elem(), "pool")); n < 30 {
		t.Fatalf("only %d fields were filled", n)
	}
	fill(t, reflect.ValueOf(&spec).Elem(), "tenant")
	spec.Quota.MaxPools = 1
	pool.Resources.MemMiB = mvm.MinMemMiB
	pool.Publish[0].ProxyFrom, pool.WakeCatchUp = "10.0.0.0/8", mvm.CatchUpAll
	pool.Desired, pool.Egress = mvm.Counts{Running: 1}, []string{"10.1.0.0/16"}
	pool.Channels[0] = mvm.Channel{Name: "w", Kind: mvm.ChannelTelegram, Secret: "w", Mode: mvm.ChannelWebhook, Allow: []string{"7"}, Port: 9, URL: "https://w/w",
		ProxyPort: 10, APIRoot: "https://w", To: mvm.ChannelTarget{PoolID: "w", Selector: mvm.ChannelSelector{From: "fixed:w"}, TargetPort: 7, Path: "/w", Accept: mvm.AcceptDurable}}
	pool.Routes.Routes[0].Match = mvm.MatchRule{Port: 7, PathPrefix: "/w", SourceCIDR: "10.0.0.0/8"}
	pool.Routes.Routes[0].Auth = &mvm.Auth{Mode: mvm.AuthJWT, Algorithm: mvm.AlgEdDSA, Keys: []string{"w"}, Claim: "w", Issuer: "w",
		Audience: "w", LeewaySeconds: 7, Token: "cookie:w"}
	proxied := pool.Routes.Routes[0]
	proxied.Name, proxied.Match.Port = "proxied", 8
	proxied.Auth = &mvm.Auth{Mode: mvm.AuthProxy, Trusted: []netip.Prefix{netip.MustParsePrefix("10.9.8.0/24")}}
	pool.Routes.Routes = append(pool.Routes.Routes, proxied)
	tenant := mvm.Tenant{ID: spec.ID, NetID: *spec.NetID, Subnet: spec.Subnet}
	copyFields(reflect.ValueOf(&tenant).Elem(), reflect.ValueOf(spec))
	doc := desired.FromState("n", []mvm.Tenant{tenant}, []mvm.Pool{{Tenant: spec.ID, Spec: pool}}, nil)
	b, err := doc.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got := decode(t, string(b)).Deployments()
	want := []mvm.Deployment{{Tenant: spec, Pools: []mvm.PoolSpec{pool}}}
	if diff := cmp.Diff(want, got, comparePrefix()); diff != "" {
		t.Errorf("internal/desired loses fields: add them to its Tenant or Pool, tenantOf or poolOf, and spec (-want +got):\n%s", diff)
	}
}

// copyFields sets the fields of a tenant that its spec has under the same name.
func copyFields(to, from reflect.Value) {
	for i := range from.NumField() {
		name := from.Type().Field(i).Name
		f := from.Field(i)
		if name == "ID" || name == "NetID" || name == "Subnet" {
			continue
		}
		if f.Kind() == reflect.Pointer {
			f = f.Elem()
		}
		to.FieldByName(name).Set(f)
	}
}

func names() *rapid.Generator[string] {
	return rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?`)
}

func policies() *rapid.Generator[mvm.RuntimePolicy] {
	return rapid.Custom(func(t *rapid.T) mvm.RuntimePolicy {
		var p mvm.RuntimePolicy
		v := reflect.ValueOf(&p).Elem()
		for i := range v.NumField() {
			v.Field(i).SetInt(int64(rapid.IntRange(0, 1000).Draw(t, "seconds")))
		}
		return p
	})
}

func pools(tenant string) *rapid.Generator[mvm.Pool] {
	return rapid.Custom(func(t *rapid.T) mvm.Pool {
		count := rapid.IntRange(0, mvm.MaxDesired)
		s := mvm.PoolSpec{
			ID: names().Draw(t, "pool"), Role: rapid.SampledFrom([]mvm.Role{mvm.RoleWorker, mvm.RoleGateway, mvm.RoleBuilder, mvm.RoleIMessage}).Draw(t, "role"),
			Profile: names().Draw(t, "profile"), Flake: rapid.StringMatching(`[!-~]{1,40}`).Draw(t, "flake"),
			Resources: mvm.Resources{VCPUs: rapid.IntRange(1, mvm.MaxVCPUs).Draw(t, "vcpus"), MemMiB: rapid.IntRange(mvm.MinMemMiB, mvm.MaxMemMiB).Draw(t, "mem")},
			Desired:   mvm.Counts{Running: count.Draw(t, "running"), Warm: count.Draw(t, "warm"), Sleeping: count.Draw(t, "sleeping")},
			Policy:    policies().Draw(t, "policy"), Pinned: rapid.Bool().Draw(t, "pinned"), Critical: rapid.Bool().Draw(t, "critical"),
			Env: rapid.MapOfN(rapid.StringMatching(`[A-Z_]{1,8}`), rapid.StringOf(rapid.RuneFrom([]rune("aä\"\\\n<&\u2028 "))), 0, 4).Draw(t, "env"),
		}
		for _, k := range rapid.SliceOfNDistinct(names(), 0, 3, rapid.ID).Draw(t, "integrations") {
			s.Integrations = append(s.Integrations, mvm.Integration{Name: k, CheckpointCmd: rapid.String().Draw(t, "cmd"), Critical: rapid.Bool().Draw(t, "critical")})
			s.SecretScopes = append(s.SecretScopes, mvm.SecretScope{Integration: k, Keys: []string{"KEY"}})
		}
		if s.Role == mvm.RoleGateway {
			s.Publish = []mvm.Publish{{Host: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), rapid.Uint16().Draw(t, "port")), Guest: 80}}
			s.Routes = &mvm.RoutingTable{Routes: []mvm.Route{{Name: "r", Match: mvm.MatchRule{Port: 80},
				To: mvm.Target{PoolID: s.ID, Selector: mvm.Selector{Kind: mvm.SelectByKey, From: "header:x"}, TargetPort: 1}}}}
		}
		return mvm.Pool{Tenant: tenant, Spec: s}
	})
}

func distinct[T any](in []T, id func(T) string) []T {
	slices.SortFunc(in, func(a, b T) int { return strings.Compare(id(a), id(b)) })
	return slices.CompactFunc(in, func(a, b T) bool { return id(a) == id(b) })
}

func TestStateToDocumentAndBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var tenants []mvm.Tenant
		var all []mvm.Pool
		for i, id := range distinct(rapid.SliceOfN(names(), 0, 4).Draw(t, "tenants"), func(s string) string { return s }) {
			q := mvm.DefaultQuota()
			q.MaxPools = 99
			tenants = append(tenants, mvm.Tenant{ID: id, NetID: i * 7, Subnet: mvm.DefaultSubnet(i * 7), Quota: q, Ceilings: mvm.Limits{CPUPercent: rapid.IntRange(0, 6450).Draw(t, "ceiling"), CPUWeight: limits.None().CPUWeight}, Pinned: rapid.Bool().Draw(t, "pinned"),
				HostServices: rapid.SliceOfN(rapid.IntRange(1, 65535), 0, 3).Draw(t, "services")})
			all = append(all, distinct(rapid.SliceOfN(pools(id), 0, 3).Draw(t, "pools"), func(p mvm.Pool) string { return p.Spec.ID })...)
		}
		hash := "sha256:" + strings.Repeat("0f", 32)
		doc := desired.FromState("node-1", tenants, all, func(string) string { return hash })
		b, err := doc.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := desired.Decode(b)
		if err != nil {
			t.Fatalf("%v in\n%s", err, b)
		}
		if diff := cmp.Diff(fmt.Sprint(wanted(tenants, all)), fmt.Sprint(seen(again.Deployments()))); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		if c, err := again.Encode(); err != nil || string(c) != string(b) {
			t.Fatalf("its JSON changes from\n%s\nto\n%s (%v)", b, c, err)
		}
	})
}

// wanted and seen are the same state in words.
func wanted(tenants []mvm.Tenant, all []mvm.Pool) (out []string) {
	for _, n := range tenants {
		out = append(out, fmt.Sprint(n.ID, n.NetID, n.Subnet, n.Quota, n.Ceilings, n.Pinned, n.HostServices))
		for _, p := range all {
			if p.Tenant == n.ID {
				out = append(out, words(p.Spec))
			}
		}
	}
	return out
}

func seen(ds []mvm.Deployment) (out []string) {
	for _, d := range ds {
		out = append(out, fmt.Sprint(d.Tenant.ID, *d.Tenant.NetID, d.Tenant.Subnet, *d.Tenant.Quota, *d.Tenant.Ceilings, d.Tenant.Pinned, d.Tenant.HostServices))
		for _, p := range d.Pools {
			out = append(out, words(p))
		}
	}
	return out
}

func words(s mvm.PoolSpec) string {
	s.Policy.IdleCPUPercent, s.Policy.IdleBytesPerMinute = s.Policy.IdleLimits()
	routes := ""
	if s.Routes != nil {
		routes = fmt.Sprintf("%#v", *s.Routes)
	}
	s.Routes = nil
	return fmt.Sprintf("%v %q %s", s, s.Env, routes)
}

func TestWhatGoesIsNotInTheDocument(t *testing.T) {
	tenants := []mvm.Tenant{{ID: "b", Quota: mvm.DefaultQuota(), NetID: 2}, {ID: "a", Quota: mvm.DefaultQuota(), NetID: 1}, {ID: "gone", Destroying: true}}
	all := []mvm.Pool{{Tenant: "a", Spec: mvm.PoolSpec{ID: "gone"}, Destroying: true}, {Tenant: "gone", Spec: mvm.PoolSpec{ID: "w"}}}
	d := desired.FromState("n", tenants, all, nil)
	if len(d.Tenants) != 2 || d.Tenants[0].TenantID != "a" || len(d.Tenants[0].Pools) != 0 {
		t.Errorf("got %+v, want tenants a and b without pools", d.Tenants)
	}
}
