package linuxnet_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/network"
	"mvm/internal/network/linuxnet"
)

// A TAP that is opened by name stays without a holder, is its user's, takes part in the
// network as any other, and goes when it is dropped or its instance is gone.
func TestNamedTAP(t *testing.T) {
	ns := newNamespace(t)
	n := open(t, ns, linuxnet.Options{})
	cfg := twoTenants()
	apply(t, n, cfg)
	i := cfg.Tenants[0].Instances[0]
	keep := func() string {
		t.Helper()
		name, err := n.KeepTAP(t.Context(), "acme", i.ID, 64_321)
		if err != nil || name != mvm.TAPName(cfg.Tenants[0].NetID, i.Offset) {
			t.Fatalf("keep the TAP: %q, %v", name, err)
		}
		return name
	}
	name := keep()
	if !slices.Contains(ns.links(), name) {
		t.Fatalf("nobody holds %s, and it is gone: %v", name, ns.links())
	}
	if got := ns.run("ip", "-d", "link", "show", name); !strings.Contains(got, "persist on") || !strings.Contains(got, "user 64321") || !strings.Contains(got, "master br-tenant-") {
		t.Errorf("the TAP is %s", got)
	}
	wantFindings(t, n)
	keep() // what stayed from before is made anew
	var held *os.File
	ns.do(func() { held = attach(t, name) })
	if _, err := n.KeepTAP(t.Context(), "acme", i.ID, 64_321); !mvm.IsKind(err, mvm.KindState) {
		t.Errorf("keep a TAP that is held: %v, want state", err)
	}
	wantFindings(t, n)
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // idempotent
		if err := n.DropTAP(t.Context(), "acme", i.ID); err != nil {
			t.Errorf("drop the TAP: %v", err)
		}
	}
	if slices.Contains(ns.links(), name) {
		t.Errorf("%s is there after it was dropped", name)
	}
	keep()
	cfg.Tenants[0].Instances = slices.Delete(slices.Clone(cfg.Tenants[0].Instances), 0, 1)
	apply(t, n, cfg)
	if _, err := n.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if slices.Contains(ns.links(), name) {
		t.Errorf("%s is there, and its instance is gone", name)
	}
	if err := n.DropTAP(t.Context(), "acme", i.ID); err != nil {
		t.Errorf("drop the TAP of an instance that is gone: %v", err)
	}
}

// attach opens a TAP by its name, as a VMM does.
func attach(t *testing.T, name string) *os.File {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		t.Fatalf("open %s by name: %v", name, err)
	}
	return os.NewFile(uintptr(fd), name)
}

var _ network.NamedTAPs = (*linuxnet.Network)(nil)
