package linux_test

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/guest/linux"
	"mvm/internal/guestproto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inNetns runs the test on a thread that has a network namespace of its own, and
// ends with the thread.
func inNetns(t *testing.T, test func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		defer close(done)
		test()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

const testMAC = "02:fc:00:05:00:03"

// addLink makes the interface eth0 with the MAC.
func addLink(t *testing.T) netlink.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	attrs.HardwareAddr = []byte{2, 0xfc, 0, 5, 0, 3}
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	return link(t)
}

func link(t *testing.T) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// state is what the interface has, in words.
func state(t *testing.T) string {
	t.Helper()
	l := link(t)
	var b strings.Builder
	if l.Attrs().Flags&1 != 0 {
		b.WriteString("up ")
	}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		b.WriteString(a.IPNet.String() + " ")
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{LinkIndex: l.Attrs().Index}, netlink.RT_FILTER_OIF)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Gw != nil {
			b.WriteString("via " + r.Gw.String() + " ")
		}
	}
	return strings.TrimSpace(b.String())
}

func config(address, gateway string) guestproto.Net {
	return guestproto.Net{MAC: testMAC, Address: netip.MustParsePrefix(address), Gateway: netip.MustParseAddr(gateway)}
}

func TestSetNetwork(t *testing.T) {
	inNetns(t, func() {
		addLink(t)
		sys := &linux.System{}
		for _, c := range []struct {
			name string
			net  guestproto.Net
			want string
		}{
			{"first", config("10.240.5.3/24", "10.240.5.1"), "up 10.240.5.3/24 via 10.240.5.1"},
			{"again", config("10.240.5.3/24", "10.240.5.1"), "up 10.240.5.3/24 via 10.240.5.1"},
			{"other address", config("10.240.5.9/24", "10.240.5.1"), "up 10.240.5.9/24 via 10.240.5.1"},
			{"other length", config("10.240.5.9/28", "10.240.5.1"), "up 10.240.5.9/28 via 10.240.5.1"},
			{"other subnet", config("10.241.0.2/16", "10.241.0.1"), "up 10.241.0.2/16 via 10.241.0.1"},
		} {
			if err := sys.SetNetwork(c.net); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			if err := sys.Announce(); err != nil {
				t.Errorf("%s: announce: %v", c.name, err)
			}
			if got := state(t); got != c.want {
				t.Errorf("%s: the interface is %q, want %q", c.name, got, c.want)
			}
		}
		if err := netlink.AddrDel(link(t), &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 241, 0, 2), Mask: net.CIDRMask(16, 32)}}); err != nil {
			t.Fatal(err)
		}
		if err := sys.SetNetwork(config("10.241.0.2/16", "10.241.0.1")); err != nil || state(t) != "up 10.241.0.2/16 via 10.241.0.1" {
			t.Errorf("after the address was taken away: %q, %v", state(t), err)
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil || lo.Attrs().Flags&1 == 0 {
			t.Errorf("lo is not up: %v", err)
		}
		b, err := os.ReadFile("/proc/thread-self/net/if_inet6")
		if err == nil && len(b) != 0 {
			t.Errorf("there are IPv6 addresses: %s", b)
		}
	})
}

func TestSetNetworkMTU(t *testing.T) {
	inNetns(t, func() {
		addLink(t)
		n := config("10.240.5.3/24", "10.240.5.1")
		n.MTU = 1400
		if err := new(linux.System).SetNetwork(n); err != nil {
			t.Fatal(err)
		}
		if got := link(t).Attrs().MTU; got != 1400 {
			t.Errorf("MTU %d, want 1400", got)
		}
	})
}

func TestSetNetworkRefuses(t *testing.T) {
	good := config("10.240.5.3/24", "10.240.5.1")
	inNetns(t, func() {
		for name, change := range map[string]func(*guestproto.Net){
			"no MAC":          func(n *guestproto.Net) { n.MAC = "" },
			"IPv6":            func(n *guestproto.Net) { n.Address = netip.MustParsePrefix("fd00::2/64") },
			"no address":      func(n *guestproto.Net) { n.Address = netip.Prefix{} },
			"gateway outside": func(n *guestproto.Net) { n.Gateway = netip.MustParseAddr("10.240.6.1") },
			"no gateway":      func(n *guestproto.Net) { n.Gateway = netip.Addr{} },
			"tiny MTU":        func(n *guestproto.Net) { n.MTU = 10 },
		} {
			n := good
			change(&n)
			if err := new(linux.System).SetNetwork(n); !mvm.IsKind(err, mvm.KindInvalid) {
				t.Errorf("%s: %v, want invalid", name, err)
			}
		}
		if err := new(linux.System).SetNetwork(good); !mvm.IsKind(err, mvm.KindNotFound) {
			t.Errorf("without an interface: %v, want not found", err)
		}
	})
}

// TestRaiseQueues: what is less becomes more, and what is more stays.
func TestRaiseQueues(t *testing.T) {
	inNetns(t, func() {
		set := map[string][2]string{"core/somaxconn": {"128", "4096"}, "ipv4/tcp_max_syn_backlog": {"8192", "8192"}, "ipv4/tcp_tw_reuse": {"2", "1"}}
		for name, v := range set {
			if err := os.WriteFile("/proc/sys/net/"+name, []byte(v[0]), 0); err != nil {
				t.Error(err)
			}
		}
		for range 2 {
			if err := linux.RaiseQueues(); err != nil {
				t.Fatal(err)
			}
			for name, v := range set {
				if b, err := os.ReadFile("/proc/sys/net/" + name); err != nil || strings.TrimSpace(string(b)) != v[1] {
					t.Errorf("%s = %q, %v; want %s", name, b, err, v[1])
				}
			}
		}
	})
}
