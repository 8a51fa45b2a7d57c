package table_test

import (
	"bufio"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guest/gateway/table"
	"mvm/internal/guest/gateway/wire"
	"mvm/internal/guestproto"
)

func made(t *testing.T, ports []int, routes ...mvm.Route) *table.Table {
	t.Helper()
	tb, err := table.New(guestproto.Configure{Routes: &mvm.RoutingTable{Routes: routes}, ListenPorts: ports,
		Net: &guestproto.Net{Address: netip.MustParsePrefix("10.240.5.2/24"), Gateway: netip.MustParseAddr("10.240.5.1")}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return tb
}

func route(name string, port int, prefix, source, from string) mvm.Route {
	r := mvm.Route{Name: name, Match: mvm.MatchRule{Port: port, PathPrefix: prefix}, To: mvm.Target{PoolID: "workers", TargetPort: 80, Selector: mvm.Selector{Kind: mvm.SelectAny}}}
	if source != "" {
		r.Match.SourceCIDR = source
	}
	if from != "" {
		r.To.Selector = mvm.Selector{Kind: mvm.SelectByKey, From: from}
	}
	return r
}

func get(t *testing.T, path string, header ...string) *http.Request {
	t.Helper()
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + path + " HTTP/1.1\r\nHost: x\r\n" + strings.Join(header, "\r\n") + "\r\n\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func status(err error) int {
	var e *wire.Refusal
	if errors.As(err, &e) {
		return e.Status
	}
	return 0
}

// TestRouteOf: the longest prefix, then the narrower source; and no path that servers read in
// different ways.
func TestRouteOf(t *testing.T) {
	tb := made(t, nil, route("all", 80, "/", "", ""), route("api", 80, "/api", "", ""), route("office", 80, "/api", "192.0.2.0/24", ""))
	for _, c := range []struct {
		path, from, want string
		status           int
	}{
		{"/", "198.51.100.1", "all", 0}, {"/api/x", "198.51.100.1", "api", 0}, {"/api", "192.0.2.7", "office", 0},
		{"/api/..%2fx", "192.0.2.7", "", 400},
	} {
		r, err := tb.RouteOf(table.Peer{Port: 80, Addr: netip.MustParseAddr(c.from)}, get(t, c.path))
		if err == nil && r.Name != c.want || status(err) != c.status {
			t.Errorf("%s from %s: route %q, %v; want %q, %d", c.path, c.from, r.Name, err, c.want, c.status)
		}
	}
	if _, err := tb.RouteOf(table.Peer{Port: 81}, get(t, "/")); status(err) != 404 {
		t.Errorf("a port without a route: %v, want 404", err)
	}
}

// TestPorts: which of them are HTTP, and on which the host's own header comes first.
func TestPorts(t *testing.T) {
	tb := made(t, []int{22, 443}, route("web", 80, "/", "", ""), route("ssh", 22, "", "", ""))
	for port, want := range map[int]bool{80: true, 22: false, 443: true} { // nothing is on 443: it says so
		if got := tb.IsHTTP(port); got != want {
			t.Errorf("port %d is HTTP: %v, want %v", port, got, want)
		}
	}
	host := netip.MustParseAddr("10.240.5.1")
	if !tb.Headed(22, host) || tb.Headed(80, host) || tb.Headed(22, netip.MustParseAddr("10.240.5.9")) {
		t.Error("a PROXY header comes from the host, on a published port, and from nobody else")
	}
	if at := tb.Addresses(); len(at) != 3 || !at[netip.MustParseAddrPort("10.240.5.2:443")] {
		t.Errorf("it listens on %v", at)
	}
}

// TestOnlyTrustedProxies: a range of the host's loopback means its own programs, and no guest.
func TestOnlyTrustedProxies(t *testing.T) {
	r := route("web", 80, "/", "", "header:x-user")
	r.Auth = &mvm.Auth{Mode: mvm.AuthProxy, Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32")}}
	tb := made(t, nil, r)
	for _, c := range []struct {
		from  table.Peer
		taken bool
	}{
		{table.Peer{Addr: netip.MustParseAddr("192.0.2.1")}, true}, {table.Peer{Addr: netip.MustParseAddr("192.0.2.2")}, false},
		{table.Peer{Addr: netip.MustParseAddr("10.240.5.1"), Local: true}, true}, {table.Peer{Addr: netip.MustParseAddr("10.240.5.1")}, false},
	} {
		if _, err := tb.Authenticate(c.from, get(t, "/"), r, time.Now()); (err == nil) != c.taken || err != nil && status(err) != 403 {
			t.Errorf("%+v: %v, want taken %v", c.from, err, c.taken)
		}
	}
}

// TestKeyOf: a token's user is the key; a request that names another is refused.
func TestKeyOf(t *testing.T) {
	r := route("web", 80, "/", "", "header:x-user")
	for _, c := range []struct {
		header, user, want string
		status             int
	}{{"ann", "", "ann", 0}, {"", "ann", "ann", 0}, {"ann", "ann", "ann", 0}, {"bob", "ann", "", 403}, {"", "", "", 400}} {
		var lines []string
		if c.header != "" {
			lines = []string{"X-User: " + c.header}
		}
		if got, err := table.KeyOf(r, c.user, get(t, "/", lines...), nil); got != c.want || status(err) != c.status {
			t.Errorf("header %q, token of %q: %q, %v; want %q, %d", c.header, c.user, got, err, c.want, c.status)
		}
	}
}

// TestTellUser: the instance is told by the gateway alone.
func TestTellUser(t *testing.T) {
	req := get(t, "/", "X_Mvm_User: eve", "X-User: eve", "Connection: X-Mvm-User, keep-alive", "Upgrade: h2c")
	table.TellUser(req, route("web", 80, "/", "", "header:x-user"), "ann", "")
	for name, values := range req.Header {
		for _, v := range values {
			if v == "eve" || v == "h2c" {
				t.Errorf("%s: %s is still there", name, v)
			}
		}
	}
	if req.Header.Get("X-Mvm-User") != "ann" || req.Header.Get("X-User") != "ann" || req.Header.Get("Connection") != "keep-alive" {
		t.Errorf("the instance is told %v", req.Header)
	}
}
