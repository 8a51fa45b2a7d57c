package vm_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/testenv"
)

// tenantText is a tenant with two instances that have busybox's tools.
func tenantText(id string, netID int, more string) string {
	return fmt.Sprintf("[tenant]\nid = %q\nnet_id = %d\nhost_services = [%d]\n", id, netID, 7000+netID) +
		"[[pools]]\nid = \"gateways\"\nrole = \"gateway\"\nflake = \"builtin:minimal\"\nvcpus = 1\nmem_mib = 128\ndesired_running = 1\n" +
		"[[pools]]\nid = \"workers\"\nflake = \"builtin:minimal\"\nvcpus = 1\nmem_mib = 128\ndesired_running = 1\n" + more
}

// TestIsolation: from real guests of two tenants, every way to the other tenant and
// to the host that busybox's tools and false host-bound messages can try fails, and
// the ways that must work do.
func TestIsolation(t *testing.T) {
	h := newHost(t, "qemu")
	h.deploy(tenantText("acme", 21, "[[pools]]\nid = \"forge\"\nrole = \"gateway\"\nflake = \""+imageRef(imgForge)+"\"\nvcpus = 1\nmem_mib = 128\n"))
	h.deploy(tenantText("zeta", 22, ""))
	forger := h.startHostile(imgForge)
	probed := map[string]bool{}
	findings, err := h.client.NetVerify(h.ctx(), true, func(p mvm.Progress) { probed[p.Target] = true })
	must(t, err)
	for _, f := range findings {
		if f.Severity == "error" {
			t.Errorf("%s: %s", f.Where, f.What)
		}
	}
	for _, i := range h.instances() {
		if i.State == mvm.StateRunning && !probed[i.ID] {
			t.Errorf("nothing was tried from %s", i.Address())
		}
	}
	h.testForged(forger)
	all := h.instances()
	h.testEgress(all[slices.IndexFunc(all, func(i mvm.Instance) bool { return i.Tenant == "acme" && i.Pool == "workers" })])
}

// testForged: whatever a guest says it is, it gets nothing of another tenant.
func (h *host) testForged(forger started) {
	h.t.Helper()
	var text string
	testenv.Eventually(h.t, patience, func() error {
		text = ""
		err := h.client.Logs(h.ctx(), mvm.Address{Instance: forger.id}, mvm.LogsSpec{Console: true}, func(l mvm.LogLine) error {
			text += l.Text + "\n"
			return nil
		})
		if err == nil && !strings.Contains(text, "all forged") {
			err = fmt.Errorf("its console says %q", text)
		}
		return err
	})
	if n := strings.Count(text, ": refused"); n < 6 || strings.Contains(text, "granted") {
		h.t.Errorf("%d of 6 false messages were refused:\n%s", n, text)
	}
	if n := h.events(forger.id, mvm.WakeRefused); n == 0 {
		h.t.Error("no refusal is in the audit log")
	}
	h.do(forger.id, mvm.OpDestroy)
	<-forger.err
}
