package mvm_test

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"mvm"
)

func route(name string, m mvm.MatchRule) mvm.Route {
	return mvm.Route{Name: name, Match: m, To: mvm.Target{PoolID: "workers",
		Selector: mvm.Selector{Kind: mvm.SelectAny}, TargetPort: 80}}
}

func TestMatch(t *testing.T) {
	table := mvm.RoutingTable{Routes: []mvm.Route{
		route("any-office", mvm.MatchRule{SourceCIDR: "192.0.2.0/24"}),
		route("web", mvm.MatchRule{Port: 8080}),
		route("root", mvm.MatchRule{Port: 8080, PathPrefix: "/"}),
		route("api", mvm.MatchRule{Port: 8080, PathPrefix: "/api"}),
		route("api-v1", mvm.MatchRule{Port: 8080, PathPrefix: "/api/v1/"}),
		route("api-office", mvm.MatchRule{Port: 8080, PathPrefix: "/api", SourceCIDR: "192.0.2.0/24"}),
		route("api-desk", mvm.MatchRule{Port: 8080, PathPrefix: "/api", SourceCIDR: "192.0.2.7/32"}),
		route("anyport-api", mvm.MatchRule{PathPrefix: "/only"}),
		route("port-only", mvm.MatchRule{Port: 8080, PathPrefix: "/only"}),
		route("six", mvm.MatchRule{Port: 9090, SourceCIDR: "2001:db8::/32"}),
	}}
	if err := table.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		port         int
		path, source string
		want         string
	}{
		{8080, "", "203.0.113.1", "web"},
		{8080, "", "192.0.2.1", "any-office"}, // a source is narrower than none, whatever the port
		{8080, "/", "203.0.113.1", "root"},
		{8080, "/x", "192.0.2.1", "root"}, // the prefix decides before the source
		{8080, "/api", "203.0.113.1", "api"},
		{8080, "/api/", "203.0.113.1", "api"},
		{8080, "/apix", "203.0.113.1", "root"},
		{8080, "/api/v1", "203.0.113.1", "api-v1"},
		{8080, "/api/v1/x", "192.0.2.7", "api-v1"},
		{8080, "/api/v2", "192.0.2.7", "api-desk"},
		{8080, "/api/v2", "192.0.2.8", "api-office"},
		{8080, "/api", "::ffff:192.0.2.8", "api-office"},
		{8080, "/only/x", "203.0.113.1", "port-only"},
		{9090, "/only/x", "203.0.113.1", "anyport-api"},
		{9090, "", "203.0.113.1", ""},
		{9090, "", "2001:db8::1", "six"},
		{9091, "", "192.0.2.1", "any-office"},
		{9091, "", "203.0.113.1", ""},
	} {
		got, ok := table.Match(c.port, c.path, netip.MustParseAddr(c.source))
		if got.Name != c.want || ok != (c.want != "") {
			t.Errorf("Match(%d, %q, %s) = %q, %v; want %q", c.port, c.path, c.source, got.Name, ok, c.want)
		}
	}
}

func TestValidateSeesTheSameRuleInOtherWords(t *testing.T) {
	for _, pair := range [][2]mvm.MatchRule{
		{{PathPrefix: "/a"}, {PathPrefix: "/a/"}},
		{{SourceCIDR: "10.0.0.0/8"}, {SourceCIDR: "10.1.2.3/8"}},
	} {
		table := mvm.RoutingTable{Routes: []mvm.Route{route("a", pair[0]), route("b", pair[1])}}
		if err := table.Validate(); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("Validate(%v) = %v, want an invalid table", pair, err)
		}
	}
}

func TestTablePorts(t *testing.T) {
	key := route("key", mvm.MatchRule{Port: 3000})
	key.To.Selector = mvm.Selector{Kind: mvm.SelectByKey, From: "path"}
	table := mvm.RoutingTable{Routes: []mvm.Route{
		route("tcp", mvm.MatchRule{Port: 2000}), key,
		route("tcp-too", mvm.MatchRule{Port: 2000, SourceCIDR: "10.0.0.0/8"}),
	}}
	if got := table.Ports(); len(got) != 2 || got[0] != 2000 || got[1] != 3000 {
		t.Errorf("Ports() = %v, want [2000 3000]", got)
	}
	if table.HTTP(2000) || !table.HTTP(3000) {
		t.Errorf("HTTP: 2000 %v, 3000 %v; want false, true", table.HTTP(2000), table.HTTP(3000))
	}
	table.Routes = append(table.Routes, route("everywhere", mvm.MatchRule{PathPrefix: "/x"}))
	if !table.HTTP(2000) {
		t.Error("a prefix without a port makes every port HTTP")
	}
}

// TestMatchIsTheBestOfAll compares Match with a slow statement of the rule.
func TestMatchIsTheBestOfAll(t *testing.T) {
	ports := rapid.SampledFrom([]int{0, 1, 2})
	prefixes := rapid.SampledFrom([]string{"", "/", "/a", "/a/", "/a/b", "/b"})
	sources := rapid.SampledFrom([]string{"", "0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.1.1/32", "::/0"})
	paths := rapid.SampledFrom([]string{"", "/", "/a", "/ab", "/a/b", "/a/b/c", "/b", "*"})
	addrs := rapid.SampledFrom([]string{"10.1.1.1", "10.1.2.2", "10.2.0.1", "192.0.2.1", "2001:db8::1"})
	rapid.Check(t, func(t *rapid.T) {
		var table mvm.RoutingTable
		for range rapid.IntRange(0, 6).Draw(t, "routes") {
			table.Routes = append(table.Routes, route("r", mvm.MatchRule{Port: ports.Draw(t, "port"),
				PathPrefix: prefixes.Draw(t, "prefix"), SourceCIDR: sources.Draw(t, "source")}))
		}
		port, path := rapid.IntRange(1, 3).Draw(t, "at"), paths.Draw(t, "path")
		src := netip.MustParseAddr(addrs.Draw(t, "from"))
		got, ok := table.Match(port, path, src)
		want, found := slowMatch(table, port, path, src)
		if ok != found || !reflect.DeepEqual(got, want) {
			t.Fatalf("Match(%d, %q, %s) of %+v = %+v, %v; want %+v, %v", port, path, src, table, got, ok, want, found)
		}
	})
}

// slowMatch tries prefixes from the longest down, then sources from the narrowest.
func slowMatch(table mvm.RoutingTable, port int, path string, src netip.Addr) (mvm.Route, bool) {
	for prefix := 5; prefix >= 0; prefix-- {
		for bits := 128; bits >= -1; bits-- {
			for _, named := range []bool{true, false} {
				for _, r := range table.Routes {
					if slowFits(r.Match, prefix, bits, named, port, path, src) {
						return r, true
					}
				}
			}
		}
	}
	return mvm.Route{}, false
}

func slowFits(m mvm.MatchRule, prefix, bits int, named bool, port int, path string, src netip.Addr) bool {
	have := 0
	if m.PathPrefix != "" {
		p := strings.TrimSuffix(m.PathPrefix, "/")
		have = len(p) + 1
		if !strings.HasPrefix(path+"/", p+"/") || path == "" {
			return false
		}
	}
	width := -1
	if m.SourceCIDR != "" {
		c := netip.MustParsePrefix(m.SourceCIDR)
		width = c.Bits()
		if !c.Contains(src) {
			return false
		}
	}
	return have == prefix && width == bits && (m.Port != 0) == named && (m.Port == 0 || m.Port == port)
}
