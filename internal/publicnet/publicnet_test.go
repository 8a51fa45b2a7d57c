package publicnet_test

import (
	"net/netip"
	"testing"

	"mvm/internal/publicnet"
)

// TestHas: only addresses that anybody may have are public, however they are written.
func TestHas(t *testing.T) {
	for _, a := range []string{"1.1.1.1", "8.8.8.8", "140.82.121.4", "::ffff:1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001:800::200e"} {
		if !publicnet.Has(netip.MustParseAddr(a)) {
			t.Errorf("%s is not public", a)
		}
	}
	for _, a := range []string{
		"0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.9.9.9", "169.254.169.254", "172.16.0.1", "192.0.0.8", "192.0.2.1",
		"192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
		"::", "::1", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "::10.0.0.1", "::127.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::a00:1", "100::1", "2001::1", "2001:2::1",
		"2001:10::1", "2001:db8::1", "2002:a00:1::1", "3fff::1", "5f00::1", "fc00::1", "fd00::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
	} {
		if publicnet.Has(netip.MustParseAddr(a)) {
			t.Errorf("%s is public", a)
		}
	}
	if publicnet.Has(netip.Addr{}) {
		t.Error("no address is public")
	}
}
