package remote_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"mvm/internal/api"
	"mvm/internal/remote"
)

// strangers connect from each of the addresses as often as that, and say nothing.
func strangers(t *testing.T, n *node, addrs, each int) {
	t.Helper()
	for i := range addrs {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i+1))}}
		for range each {
			c, err := d.DialContext(ctxOf(t), "tcp", n.addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
		}
	}
}

// Strangers of several addresses who take every place, and never finish, keep nobody
// out: neither who comes after them, nor who came before and is slow.
func TestStrangersOfManyAddresses(t *testing.T) {
	for name, s := range map[string]struct{ addrs, each int }{"few": {9, 20}, "many": {200, 1}} {
		t.Run(name, func(t *testing.T) {
			n := start(t, remote.Options{Handshake: time.Hour}, api.ServerConfig{})
			dir := n.bundle("laptop", "", day)
			early, err := net.Dial("tcp", n.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer early.Close()
			strangers(t, n, s.addrs, s.each)
			if _, err := n.client("late", "").Tenants(ctxOf(t)); err != nil {
				t.Errorf("who comes after them: %v", err)
			}
			if name == "many" { // none has more than another: the oldest went
				return
			}
			cfg := conf(t, dir)
			cfg.ServerName = "127.0.0.1"
			c := tls.Client(early, cfg)
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			if _, err := io.WriteString(c, "GET /v1/version HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
				t.Fatalf("who came before them: %v", err)
			}
			var b [64]byte
			if k, err := c.Read(b[:]); !strings.HasPrefix(string(b[:k]), "HTTP/1.1 200") {
				t.Errorf("who came before them got %q, %v", b[:k], err)
			}
		})
	}
}

// Whoever is known is not dropped for strangers.
func TestStrangersDropNobodyWhoIsKnown(t *testing.T) {
	n := start(t, remote.Options{Handshake: time.Hour}, api.ServerConfig{})
	c, err := tls.Dial("tcp", n.addr, conf(t, n.bundle("laptop", "", day)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ask := func() {
		t.Helper()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.WriteString(c, "GET /v1/version HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4096)
		if k, err := c.Read(b); !strings.HasPrefix(string(b[:k]), "HTTP/1.1 200") {
			t.Fatalf("got %q, %v", b[:k], err)
		}
	}
	ask()
	strangers(t, n, 9, 20)
	ask()
}

func TestWhomAnAddressIsCountedAs(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"2001:db8::1", "2001:db8::ffff:1:2:3", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
	} {
		a, b := remote.GroupOf(&net.TCPAddr{IP: net.ParseIP(c.a)}), remote.GroupOf(&net.TCPAddr{IP: net.ParseIP(c.b)})
		if (a == b) != c.same || !a.IsValid() {
			t.Errorf("%s is counted as %s and %s as %s, same: want %t", c.a, a, c.b, b, c.same)
		}
	}
	zoned := remote.GroupOf(&net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"})
	if got := fmt.Sprint(zoned); got != "fe80::/64" {
		t.Errorf("an address with a zone is counted as %s", got)
	}
}
