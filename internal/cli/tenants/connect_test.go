package tenants

import (
	"net/netip"
	"testing"
)

// TestReachable: what connect says can be dialled from where it is asked, or it names the
// only host that can.
func TestReachable(t *testing.T) {
	for _, c := range []struct{ bound, remote, address, only string }{
		{"127.0.0.1:8080", "", "127.0.0.1:8080", ""},
		{"0.0.0.0:8080", "", "127.0.0.1:8080", ""},
		{"[::]:8080", "", "127.0.0.1:8080", ""},
		{"192.0.2.7:8080", "", "192.0.2.7:8080", ""},
		{"127.0.0.1:8080", "node.example", "127.0.0.1:8080", "node.example"},
		{"[::1]:8080", "192.0.2.7", "[::1]:8080", "192.0.2.7"},
		{"0.0.0.0:8080", "node.example", "node.example:8080", ""},
		{"[::]:8080", "2001:db8::1", "[2001:db8::1]:8080", ""},
		{"192.0.2.7:8080", "node.example", "192.0.2.7:8080", ""},
		{"127.0.0.1:8080", "localhost", "127.0.0.1:8080", ""},
		{"127.0.0.1:8080", "127.0.0.1", "127.0.0.1:8080", ""},
	} {
		at := reachable(netip.MustParseAddrPort(c.bound), c.remote)
		if address, only := at.address, at.only; address != c.address || only != c.only {
			t.Errorf("%s, asked of %q: %s, only on %q; want %s, only on %q", c.bound, c.remote, address, only, c.address, c.only)
		}
	}
}
