package nix_test

import (
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/image"
	"mvm/internal/image/nix"
)

// TestWayOut: a step with a fixed output reaches an address that is allowed through the proxy,
// and no other one.
func TestWayOut(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello from outside\n")
			_ = c.Close()
		}
	}()
	defer func() {
		_ = l.Close()
		<-served
	}()
	dir := flake(t, "hostile")
	b, err := os.ReadFile(filepath.Join(dir, "flake.nix"))
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	text := strings.ReplaceAll(string(b), "169.254.169.254:443", l.Addr().String())
	write(t, filepath.Join(dir, "flake.nix"), strings.ReplaceAll(text, "127.0.0.1 1 ", "127.0.0.1 "+port+" "))
	build := func(o nix.Options, profile string) error {
		_, err := store(t, o).Build(t.Context(), image.Request{Ref: nix.Path + dir, Profile: profile}, nil)
		return err
	}
	if err := build(options(t), "network-fetch"); err == nil || !strings.Contains(err.Error(), "fetch has no network") {
		t.Errorf("it reached the host's network: %v", err)
	}
	if err := build(options(t), "private-fetch"); !mvm.IsKind(err, mvm.KindPolicy) || !strings.Contains(err.Error(), "not allowed") {
		t.Errorf("it reached a private address: %v", err)
	}
	var asked []string
	err = build(options(t).Allowing(func(ip netip.Addr, port uint16) error {
		asked = append(asked, netip.AddrPortFrom(ip, port).String())
		return nil
	}), "private-fetch")
	if err == nil || !strings.Contains(err.Error(), "hello from outside") || len(asked) != 1 || asked[0] != l.Addr().String() {
		t.Errorf("%v, and asked for %v; want what the server says", err, asked)
	}
}
