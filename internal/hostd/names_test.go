package hostd_test

import (
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"mvm"
	"mvm/internal/hostd"
	"mvm/internal/hostd/hostdtest"
	"mvm/internal/network"
	"mvm/internal/network/fakenet"
	"mvm/internal/network/networktest"
	"mvm/internal/testenv"
)

// TestNames: the sockets of a resolver come through the server, which keeps none of them, and
// as many addresses as there may be in one request. A server that was restarted knows the
// guests after the first question.
func TestNames(t *testing.T) {
	testenv.NeedRoot(t)
	cfg := networktest.Config(networktest.Tenant("acme", 3, 3), networktest.Tenant("zeta", 4, 3))
	acme := &cfg.Tenants[0]
	acme.Closed, acme.Resolver, acme.Instances[0].Egress = true, true, 1
	must(t, json.Unmarshal([]byte(`[[{"Name":"api.example.com"}]]`), &acme.Egress))
	id := acme.Instances[0].ID
	var list []network.Admission
	for n := range network.MaxAdmissions {
		list = append(list, network.Admission{Address: netip.AddrFrom4([4]byte{203, 100, 100 + byte(n>>8), byte(n)}), For: network.MaxAdmission - time.Nanosecond})
	}
	fake := fakenet.New()
	defer fake.Close()
	c, socket := hostdtest.Serve(t, hostd.Options{Network: fake})
	n := c.Network()
	must(t, n.Apply(t.Context(), cfg))
	wantSockets(t, n)
	must(t, n.Admit(t.Context(), "acme", id, list))
	if got := fake.Admitted(id); len(got) != len(list) || got[list[7].Address] != list[7] {
		t.Errorf("%d addresses are open, want %d, as they were asked for", len(got), len(list))
	}
	if err := n.Admit(t.Context(), "acme", id, append(list, list[0])); !mvm.IsKind(err, mvm.KindInvalid) {
		t.Errorf("one more than there may be: %v", err)
	}
	for _, tenant := range []string{"zeta", "nobody"} {
		if udp, tcp, err := n.OpenResolver(t.Context(), tenant); !mvm.IsKind(err, mvm.KindNotFound) || udp != nil || tcp != nil {
			t.Errorf("sockets of %s, which is not closed: %v, %v, %v", tenant, udp, tcp, err)
		}
	}

	for what, ask := range map[string]func(n network.Names) error{
		"addresses": func(n network.Names) error { return n.Admit(t.Context(), "acme", id, list[:1]) },
		"sockets":   func(n network.Names) error { wantSockets(t, n); return nil },
	} {
		must(t, os.Remove(socket))
		next := fakenet.New()
		defer next.Close()
		_, at := hostdtest.Serve(t, hostd.Options{Network: next})
		must(t, os.Symlink(at, socket))
		if err := ask(n); err != nil {
			t.Errorf("%s, of a server that was restarted: %v", what, err)
		}
	}
}

// wantSockets takes acme's sockets, and sees that closing them leaves nobody who listens.
func wantSockets(t *testing.T, n network.Names) {
	t.Helper()
	udp, tcp, err := n.OpenResolver(t.Context(), "acme")
	must(t, err)
	defer func() { _, _ = udp.Close(), tcp.Close() }()
	u, err := net.FilePacketConn(udp)
	must(t, err)
	l, err := net.FileListener(tcp)
	must(t, err)
	_, _, _, _ = udp.Close(), tcp.Close(), u.Close(), l.Close()
	testenv.Eventually(t, time.Minute, func() error { // the server lets go of its own when it has answered
		c, err := net.ListenPacket("udp4", u.LocalAddr().String())
		if err != nil {
			return err
		}
		d, err := net.Listen("tcp4", l.Addr().String())
		if err == nil {
			err = d.Close()
		}
		_ = c.Close()
		return err
	})
}
