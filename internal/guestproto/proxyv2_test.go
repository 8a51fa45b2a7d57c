package guestproto_test

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"

	"mvm/internal/guestproto"
)

func TestProxyHeaderRoundTrip(t *testing.T) {
	for _, c := range []struct{ src, dst string }{
		{"192.0.2.1:1234", "10.240.5.3:8080"},
		{"[2001:db8::1]:65535", "[2001:db8::2]:1"},
		{"[2001:db8::1]:9", "10.240.5.3:8080"},
		{"[::ffff:192.0.2.1]:1234", "10.240.5.3:8080"},
	} {
		src, dst := netip.MustParseAddrPort(c.src), netip.MustParseAddrPort(c.dst)
		r := bytes.NewReader(append(guestproto.AppendProxyHeader(nil, src, dst), "GET /"...))
		gotSrc, gotDst, err := guestproto.ReadProxyHeader(r)
		rest, _ := io.ReadAll(r)
		wantSrc := netip.AddrPortFrom(src.Addr().Unmap(), src.Port())
		if err != nil || gotSrc != wantSrc || gotDst != dst || string(rest) != "GET /" {
			t.Errorf("%s -> %s: got %s, %s, %v, rest %q", c.src, c.dst, gotSrc, gotDst, err, rest)
		}
	}
}

func TestProxyHeaderRefusesOthers(t *testing.T) {
	good := string(guestproto.AppendProxyHeader(nil, netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("10.0.0.1:2")))
	change := func(at int, b byte) string { return good[:at] + string([]byte{b}) + good[at+1:] }
	for name, in := range map[string]string{
		"v1":             "PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n",
		"http":           "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"local command":  change(12, 0x20),
		"version 1":      change(12, 0x11),
		"UDP":            change(13, 0x12),
		"unix":           change(13, 0x31),
		"family 6 short": change(13, 0x21),
		"short length":   change(15, 11),
		"huge length":    change(14, 0xff) + strings.Repeat("x", 1<<16),
	} {
		if _, _, err := guestproto.ReadProxyHeader(strings.NewReader(in)); !errors.Is(err, guestproto.ErrProxyHeader) {
			t.Errorf("%s: got %v, want ErrProxyHeader", name, err)
		}
	}
	for n := range len(good) {
		if _, _, err := guestproto.ReadProxyHeader(strings.NewReader(good[:n])); err == nil {
			t.Errorf("a header cut off after %d bytes was taken", n)
		}
	}
}

func TestProxyHeaderSkipsTLVs(t *testing.T) {
	b := guestproto.AppendProxyHeader(nil, netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("10.0.0.1:2"))
	b[15] += 4
	r := strings.NewReader(string(b) + "\x04\x00\x01xrest")
	src, _, err := guestproto.ReadProxyHeader(r)
	rest, _ := io.ReadAll(r)
	if err != nil || src.String() != "192.0.2.1:1" || string(rest) != "rest" {
		t.Errorf("got %s, %v, rest %q", src, err, rest)
	}
}

func FuzzReadProxyHeader(f *testing.F) {
	f.Add(guestproto.AppendProxyHeader(nil, netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("10.0.0.1:2")))
	f.Add(guestproto.AppendProxyHeader(nil, netip.MustParseAddrPort("[2001:db8::1]:1"), netip.MustParseAddrPort("10.0.0.1:2")))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00rest"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		src, dst, err := guestproto.ReadProxyHeader(r)
		if read := len(in) - r.Len(); read > guestproto.MaxProxyHeader {
			t.Fatalf("read %d bytes, more than %d", read, guestproto.MaxProxyHeader)
		}
		balanced := bytes.NewReader(in)
		src3, dst3, err3 := guestproto.ReadBalancerHeader(balanced)
		if read := len(in) - balanced.Len(); read > guestproto.MaxProxyHeader {
			t.Fatalf("read %d bytes of a balancer, more than %d", read, guestproto.MaxProxyHeader)
		}
		if own := err3 == nil && !src3.IsValid(); !own && (src3 != src || dst3 != dst || (err3 == nil) != (err == nil)) || own && err == nil {
			t.Fatalf("of a balancer %s -> %s, %v; of the host %s -> %s, %v", src3, dst3, err3, src, dst, err)
		}
		if err != nil {
			return
		}
		again := guestproto.AppendProxyHeader(nil, src, dst)
		src2, dst2, err := guestproto.ReadProxyHeader(bytes.NewReader(again))
		if err != nil || src2 != src || dst2 != dst {
			t.Fatalf("round trip of %s -> %s gave %s -> %s, %v", src, dst, src2, dst2, err)
		}
	})
}
