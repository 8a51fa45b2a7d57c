package hostd_test

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver/vmproc"
	"mvm/internal/hostd"
	"mvm/internal/hostd/hostdtest"
	"mvm/internal/network"
	"mvm/internal/network/fakenet"
	"mvm/internal/testenv"
)

// A TAP is for a user of instances, at both ends of the range.
func TestTAPsAreForUsersOfInstances(t *testing.T) {
	w := newWorld(t)
	const id = "i-00000001"
	n := w.client.Network()
	must(t, n.Apply(t.Context(), network.Config{Tenants: []network.Tenant{{ID: "acme", NetID: 1, Subnet: netip.MustParsePrefix("10.90.1.0/24"),
		Instances: []network.Instance{{ID: id, Offset: 10}}}}}))
	for _, user := range []int{uid, uid + 1, uid + 10} {
		testenv.Eventually(t, time.Minute, func() error { // the server lets go of the one before when it has answered
			f, err := n.OpenTAP(t.Context(), "acme", id, user)
			if err == nil {
				err = f.Close()
			}
			return err
		})
	}
	for _, user := range []int{-1, 0, 1, uid - 1, uid + 11, 65534, 1<<32 + uid, 1 << 40} {
		f, err := n.OpenTAP(t.Context(), "acme", id, user)
		if !mvm.IsKind(err, mvm.KindPolicy) {
			t.Errorf("TAP for user %d: %v, %v; want it refused", user, f, err)
		}
		if f != nil {
			_ = f.Close()
		}
	}
}

// Ids of networks get into names of interfaces, rules and logs: hostd takes what an agent
// would write, and nothing else.
func TestIDsOfNetworksAreChecked(t *testing.T) {
	n := fakenet.New()
	t.Cleanup(func() { _ = n.Close() })
	s, err := hostd.NewServer(hostd.Options{Bounds: (&world{dir: "/run/mvm-test"}).bounds(), Network: n, VMMs: hostdtest.QEMU(strict{t}), Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	t.Cleanup(s.Close)
	apply := func(tenant, instance string) error {
		return s.Do(t.Context(), hostd.OpApply, []byte(fmt.Sprintf(`{"Tenants":[{"ID":%s,"NetID":1,"Subnet":"10.90.1.0/24","Instances":[{"ID":%s,"Offset":10}]}]}`,
			encoded(t, tenant), encoded(t, instance))))
	}
	must(t, apply("acme", "i-00000001"))
	for _, id := range []string{"", "i-1", "i-0000000g", "I-00000001", "i-00000001 ", "i-000000001", "../../etc", "i-\x1b[2J", "*", strings.Repeat("i", 300)} {
		if err := apply("acme", id); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("instance %q: %v, want it refused", id, err)
		}
	}
	for _, id := range []string{"", "Acme", "a b", "../x", "a\n", "-a", strings.Repeat("a", 300)} {
		if err := apply(id, "i-00000001"); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("tenant %q: %v, want it refused", id, err)
		}
	}
	if _, err := n.OpenTAP(t.Context(), "acme", "i-00000001", uid); err != nil {
		t.Errorf("after what was refused the network is another: %v", err)
	}
}

// A VMM is ended, limited and measured by whoever knows its number and its start, both: a number
// may be another process's by now.
func TestOnlyTheVeryVMMIsEndedOrMeasured(t *testing.T) {
	w := newWorld(t)
	l := w.launch("i-00000005")
	p, _, err := w.vmms().Launch(t.Context(), l)
	must(t, err)
	defer p.Close()
	pid, start := p.ID()
	ask := func(op byte, h vmproc.Hint) string {
		more := ""
		if op == hostd.OpLimitCPU {
			more = `,"cpu":{"weight":100,"milli":1500}`
		}
		got, _ := w.raw(frame(op, fmt.Appendf(nil, `{"name":%s,"hint":%s%s}`, encoded(t, l.Name), encoded(t, h), more)))
		return string(got)
	}
	for what, h := range map[string]vmproc.Hint{
		"another number":         {PID: pid + 1, Start: start},
		"another start":          {PID: pid, Start: start + 1},
		"an earlier start":       {PID: pid, Start: start - 1},
		"no start":               {PID: pid},
		"no number":              {Start: start},
		"neither":                {},
		"its number, negative":   {PID: -pid, Start: start},
		"the number of the test": {PID: 1, Start: start},
	} {
		for name, op := range map[string]byte{"kill": hostd.OpKill, "limit": hostd.OpLimitCPU, "stats": hostd.OpStats} {
			if got := ask(op, h); !strings.Contains(got, "no such process") {
				t.Errorf("%s with %s: answered %q", name, what, got)
			}
		}
	}
	if n := w.running(l.Name); n != 1 {
		t.Fatalf("%d VMMs run after that, want the one", n)
	}
	very := vmproc.Hint{PID: pid, Start: start}
	if got := ask(hostd.OpStats, very); !strings.Contains(got, "rss") && !strings.Contains(got, "RSS") {
		t.Errorf("stats of the very VMM: answered %q", got)
	}
	if got := ask(hostd.OpKill, very); strings.Contains(got, "error") {
		t.Errorf("kill of the very VMM: answered %q", got)
	}
	w.gone(l.Name)
	must(t, w.vmms().Leave(t.Context(), l.Name, l.Cgroup, nil))
}
