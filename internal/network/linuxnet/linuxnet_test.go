package linuxnet_test

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"mvm/internal/hostd"
	"mvm/internal/hostd/hostdtest"
	"mvm/internal/network"
	"mvm/internal/network/linuxnet"
	"mvm/internal/network/networktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNetwork(t *testing.T) {
	networktest.Run(t, func(t *testing.T) networktest.Subject {
		ns := newNamespace(t)
		n := open(t, ns, linuxnet.Options{})
		return networktest.Subject{Network: n, State: ns.state, Links: ns.links, Occupy: ns.occupy}
	})
}

// The networks keep their promises when a server has the rights.
func TestNetworkThroughHostd(t *testing.T) {
	networktest.Run(t, func(t *testing.T) networktest.Subject {
		ns := newNamespace(t)
		client, _ := hostdtest.Serve(t, hostd.Options{Network: open(t, ns, linuxnet.Options{})})
		return networktest.Subject{Network: forInstances{client.Network()}, State: ns.state, Links: ns.links, Occupy: ns.occupy}
	})
}

// forInstances opens TAPs for the user of an instance, as a server demands it, where
// the suite does for its own.
type forInstances struct{ network.Network }

func (n forInstances) OpenTAP(ctx context.Context, tenant, instance string, _ int) (*os.File, error) {
	return n.Network.OpenTAP(ctx, tenant, instance, 64_321)
}

func open(t testing.TB, ns *testNS, opts linuxnet.Options) *linuxnet.Network {
	t.Helper()
	opts.Netns = ns.path
	n, err := linuxnet.New(opts)
	if err != nil {
		t.Fatalf("open network: %v", err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

// run runs a command in the namespace and returns its output; it fails the test when
// the command fails.
func (ns *testNS) run(argv ...string) string {
	ns.t.Helper()
	var out, errs bytes.Buffer
	var err error
	ns.do(func() {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stdout, cmd.Stderr = &out, &errs
		err = cmd.Run()
	})
	if err != nil {
		ns.t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, errs.String())
	}
	return out.String()
}

// occupy gives the host an address in the range, or a route to it.
func (ns *testNS) occupy(p netip.Prefix, route bool) {
	ns.t.Helper()
	if !strings.Contains(ns.run("ip", "-o", "link"), " uplink:") {
		ns.run("ip", "link", "add", "uplink", "type", "bridge")
		ns.run("ip", "link", "set", "uplink", "up")
	}
	if route {
		ns.run("ip", "route", "add", p.String(), "dev", "uplink", "table", "52")
		ns.run("ip", "route", "add", p.String(), "dev", "uplink")
		return
	}
	ns.run("ip", "addr", "add", netip.PrefixFrom(p.Addr().Next(), p.Bits()).String(), "dev", "uplink")
}

// links returns the interfaces with mvm's names, sorted.
func (ns *testNS) links() []string {
	var out []string
	for _, line := range strings.Split(ns.run("ip", "-o", "link"), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimSuffix(f[1], ":"), "@")
		if strings.HasPrefix(name, "br-tenant-") || strings.HasPrefix(name, "tn") {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// state is all of nftables with handles, links, addresses and settings.
func (ns *testNS) state() string {
	return ns.run("nft", "-j", "list", "ruleset") + ns.run("ip", "-o", "link") + ns.run("ip", "-o", "addr") +
		ns.run("sysctl", "-a", "-r", `net.ipv[46].(conf.br-tenant|ip_forward)`)
}
