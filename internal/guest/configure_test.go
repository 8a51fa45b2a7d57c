package guest_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mvm"
	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
)

func TestConfigureOrder(t *testing.T) {
	m := newMachine(t)
	c := boot()
	c.Net = &guestproto.Net{MAC: "02:fc:00:05:00:03"}
	m.mustConfigure(c)
	want := []string{"clock", "entropy", "hostname", "network", "memory", "bootid"}
	if d := cmp.Diff(append(want, "announce"), m.didAll()); d != "" {
		t.Errorf("operations of a boot (-want +got):\n%s", d)
	}
	c.Reason, c.UnixNanos, c.Entropy = "update", 0, nil
	c.Secrets = map[string][]byte{"new": {1}}
	m.mustConfigure(c)
	want = []string{"hostname", "network", "memory", "bootid"}
	if d := cmp.Diff(append(want, "announce"), m.didAll()); d != "" {
		t.Errorf("operations of an update (-want +got):\n%s", d)
	}
}

// didAll waits for the announcement, which comes after the answer.
func (m *machine) didAll() (ops []string) {
	m.t.Helper()
	eventually(m.t, "announced", func() bool {
		ops = append(ops, m.sys.did()...)
		return slices.Contains(ops, "announce")
	})
	return ops
}

func TestConfigureNamesWhatFailed(t *testing.T) {
	for _, op := range []string{"clock", "entropy", "hostname", "network", "memory"} {
		m := newMachine(t, workload.Service{Name: "app", Command: sh("sleep 1000")})
		m.sys.fail[op] = errors.New(op + " is broken")
		c := boot()
		c.Net = &guestproto.Net{}
		ack := m.configure(c)
		if ack.Success || ack.Detail == nil || !strings.Contains(*ack.Detail, op+" is broken") {
			t.Errorf("with %s failing: ack %+v", op, ack)
		}
		if s := m.status(); s.Ready || s.Detail != "not configured yet" || len(s.Services) != 0 {
			t.Errorf("with %s failing: status %+v, want nothing started", op, s)
		}
		m.sys.mu.Lock()
		delete(m.sys.fail, op)
		m.sys.mu.Unlock()
		m.mustConfigure(c)
		m.awaitState("app", "ready")
	}
}

func TestConfigureClockAndAck(t *testing.T) {
	m := newMachine(t)
	c := boot()
	want := time.Date(2031, 1, 2, 3, 4, 5, 0, time.UTC)
	c.UnixNanos, c.Generation = want.UnixNano(), 7
	ack := m.configure(c)
	if d := m.sys.clock.Sub(want); d < 0 || d > patience {
		t.Errorf("clock was set %s after the time in the message, want the time it took since", d)
	}
	if !ack.Success || ack.Generation != 7 || ack.BootID != "boot-1" || ack.UnixNanos == 0 {
		t.Errorf("ack %+v", ack)
	}
	resp := m.must(guestproto.Request{AdjustClock: &guestproto.AdjustClock{OffsetNanos: -5}})
	if m.sys.step != -5 || resp.ClockAck.UnixNanos == 0 {
		t.Errorf("AdjustClock stepped %d and answered %+v", m.sys.step, resp.ClockAck)
	}
}

func TestConfigureRefuses(t *testing.T) {
	m := newMachine(t)
	for name, change := range map[string]func(*guestproto.Configure){
		"no entropy":     func(c *guestproto.Configure) { c.Entropy = make([]byte, 31) },
		"no time":        func(c *guestproto.Configure) { c.UnixNanos = 0 },
		"other reason":   func(c *guestproto.Configure) { c.Reason = "nap" },
		"unknown role":   func(c *guestproto.Configure) { c.Role = "king" },
		"secret above":   func(c *guestproto.Configure) { c.Secrets = map[string][]byte{"../x": nil} },
		"secret rooted":  func(c *guestproto.Configure) { c.Secrets = map[string][]byte{"/etc/x": nil} },
		"secret dot":     func(c *guestproto.Configure) { c.Secrets = map[string][]byte{"a/.": nil} },
		"secret deep":    func(c *guestproto.Configure) { c.Secrets = map[string][]byte{"a/b/c": nil} },
		"secret empty":   func(c *guestproto.Configure) { c.Secrets = map[string][]byte{"": nil} },
		"file and dir":   func(c *guestproto.Configure) { c.Secrets = map[string][]byte{"a": {1}, "a/b": {1}} },
		"integration up": func(c *guestproto.Configure) { c.Integrations = []mvm.Integration{{Name: "../x"}} },
	} {
		c := boot()
		change(&c)
		if ack := m.configure(c); ack.Success || ack.Detail == nil {
			t.Errorf("%s: ack %+v, want a refusal", name, ack)
		}
	}
	if m.status().Ready {
		t.Error("a refused Configure made the guest ready")
	}
}

func TestConfigFiles(t *testing.T) {
	m := newMachine(t)
	c := boot()
	c.Role, c.Secrets = mvm.RoleGateway, map[string][]byte{"token": []byte("sekrit")}
	c.Routes = &mvm.RoutingTable{Routes: []mvm.Route{{Name: "r", Match: mvm.MatchRule{Port: 80},
		To: mvm.Target{PoolID: "workers", Selector: mvm.Selector{Kind: mvm.SelectAny}, TargetPort: 80}}}}
	m.mustConfigure(c)
	id := readFile(t, m.paths.Config+"/config.json")
	if !strings.Contains(id, `"instance_id": "i-00000001"`) || strings.Contains(id, "sekrit") {
		t.Errorf("config.json is %s", id)
	}
	if r := readFile(t, m.paths.Config+"/routes.json"); !strings.Contains(r, `"pool_id": "workers"`) {
		t.Errorf("routes.json is %s", r)
	}
	if readFile(t, m.paths.Run+"/gateway-ready") != "" || m.router.configured != 1 {
		t.Error("the router was not configured")
	}
	if _, err := os.Stat(m.paths.Run + "/gateway-ready"); err != nil {
		t.Error(err)
	}
	c.Routes = nil
	m.mustConfigure(c)
	if _, err := os.Stat(m.paths.Config + "/routes.json"); !os.IsNotExist(err) {
		t.Errorf("routes.json is still there: %v", err)
	}
}

func TestRouterFailureIsTold(t *testing.T) {
	m := newMachine(t)
	m.router.err = errors.New("port 80 is taken")
	c := boot()
	c.Role = mvm.RoleGateway
	if ack := m.configure(c); ack.Success || !strings.Contains(*ack.Detail, "port 80 is taken") {
		t.Errorf("ack %+v", ack)
	}
}

// A flag that the workload made a link must not lead the agent elsewhere.
func TestFlagsDoNotFollowLinks(t *testing.T) {
	m := newMachine(t)
	target := filepath.Join(m.dir, "victim")
	writeFile(t, target, "precious")
	if err := os.Symlink(target, m.paths.Config+".link"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(m.paths.Config, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, m.paths.Config+"/config.json"); err != nil {
		t.Fatal(err)
	}
	m.mustConfigure(boot())
	if got := readFile(t, target); got != "precious" {
		t.Errorf("the link's target is now %q", got)
	}
}
