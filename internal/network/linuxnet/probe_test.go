package linuxnet_test

import (
	"context"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mvm/internal/network"
	"mvm/internal/network/linuxnet"
)

// TestProbes runs the live probes with busybox from guests that have a whole network
// stack: all are as they should be, and on a host without rules they are not.
func TestProbes(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("busybox"); err != nil {
		t.Skip("needs busybox, whose tools the probes use")
	}
	w := newWorld(t, "0", linuxnet.Options{})
	w.listenTCP()
	guests := map[string]*guest{}
	for _, name := range []string{"a3", "a4", "z3"} {
		g := w.guest(name)
		tenant := w.cfg.Tenants[map[byte]int{'a': 0, 'z': 1}[name[0]]]
		i := slices.IndexFunc(tenant.Instances, func(i network.Instance) bool { return i.Offset == int(name[1]-'0') })
		guests[tenant.Instances[i].ID] = g
	}
	probes := network.Probes(w.cfg, network.ProbeHost{Addrs: []netip.Addr{ipHost}, Port: portTCP})
	if found := runProbes(t, guests, probes); len(found) > 0 {
		t.Errorf("probes found %+v, want nothing", found)
	}
	w.unprotect()
	w.host.run("nft", "add table ip lab; add chain ip lab p { type nat hook prerouting priority -100; }")
	found := runProbes(t, guests, probes)
	for _, what := range []string{
		"a guest of tenant zeta answers", "the gateway of tenant zeta answers", "the gateway of tenant zeta answers ARP",
		"a host port of tenant zeta answers", "a port of the host that is not the tenant's answers", "an address of the host answers",
		"a MAC that the guest took for itself", "an address that the guest took for itself", "a neighbour answers over IPv6", "a guest of tenant acme answers",
	} {
		if !slices.ContainsFunc(found, func(f network.Finding) bool { return strings.Contains(f.What, what) }) {
			t.Errorf("without rules the probes do not find %q, but only %+v", what, found)
		}
	}
}

// runProbes runs the probes of the guests that there are, guests at the same time,
// but for those that disturb.
func runProbes(t *testing.T, guests map[string]*guest, probes []network.Probe) []network.Finding {
	t.Helper()
	var mu sync.Mutex
	var found []network.Finding
	run := func(p network.Probe) {
		g := guests[p.Instance]
		for _, argv := range p.Prepare {
			if code := g.busybox(argv); code != 0 {
				t.Errorf("%q exits %d", argv, code)
			}
		}
		f, bad := p.Judge(g.busybox(p.Argv))
		for _, argv := range p.Restore {
			if code := g.busybox(argv); code != 0 {
				t.Errorf("%q exits %d", argv, code)
			}
		}
		if bad {
			mu.Lock()
			defer mu.Unlock()
			found = append(found, f)
		}
	}
	var wg sync.WaitGroup
	var last []network.Probe
	for id := range guests {
		var mine []network.Probe
		for _, p := range probes {
			switch {
			case p.Instance != id || p.Peer != "" && guests[p.Peer] == nil:
			case p.Disturbs:
				last = append(last, p)
			default:
				mine = append(mine, p)
			}
		}
		wg.Go(func() {
			for _, p := range mine {
				run(p)
			}
		})
	}
	wg.Wait()
	for _, p := range last {
		run(p)
	}
	return found
}

// busybox runs a tool in the guest and returns its exit code.
func (g *guest) busybox(argv []string) int {
	code := -1
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	g.do(func() {
		cmd := exec.CommandContext(ctx, "busybox", argv...)
		if _ = cmd.Run(); cmd.ProcessState == nil {
			code = 127 // no busybox
			return
		}
		code = cmd.ProcessState.ExitCode()
	})
	return code
}
