package vm_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/manifest"
)

// deployed is what TestDeployKilled has made.
const deployed = `[tenant]
id = "acme"
[[pools]]
id = "gateways"
role = "gateway"
flake = "builtin:gateway"
desired_running = 1
[[pools]]
id = "workers"
flake = "builtin:minimal"
data_disk_mib = 16
desired_running = 1
desired_warm = 1
min_running_seconds = 0
[secrets]
key = { file = "key" }
`

func deployment(t *testing.T) mvm.Deployment {
	t.Helper()
	d, err := manifest.ParseDeployment("test.toml", []byte(deployed), func(string) ([]byte, error) { return []byte("secret"), nil })
	must(t, err)
	return d
}

// loopPoint is passed by the reconcile loop alone. A deployment makes passes of its own,
// so on a busy machine it may be done before the loop gets there.
const loopPoint = "reconcile.due:before"

// TestDeployKilled kills the agent at every named point that a deployment passes. The
// next run completes it: nothing is there twice, and nothing without an owner.
func TestDeployKilled(t *testing.T) {
	t.Parallel()
	h := newHost(t, "fake")
	d := deployment(t)
	must(t, os.WriteFile(h.path(pointsFile), nil, 0o600))
	_, err := h.client.Apply(h.ctx(), d, mvm.ApplyOptions{}, nil)
	must(t, err)
	b, err := os.ReadFile(h.path(pointsFile))
	must(t, err)
	must(t, os.Remove(h.path(pointsFile)))
	points := strings.Fields(string(b))
	slices.Sort(points)
	points = slices.Compact(points)
	for _, want := range []string{"apply.create-tenant:before", "apply.set-secrets:before", "apply.create-pool:before", "reconcile.pass:before",
		"create.disks:after", "start.vmm:after", "start.open:before", "warm.pause:after"} {
		if !slices.Contains(points, want) {
			t.Errorf("a deployment does not pass %s, of %v", want, points)
		}
	}
	h.wantDeployed(d, "not killed")
	for _, p := range points {
		must(t, h.client.DestroyTenant(h.ctx(), "acme", nil))
		h.killAt(p)
		if _, err := h.client.Apply(h.ctx(), d, mvm.ApplyOptions{}, nil); err == nil && p != loopPoint {
			t.Fatalf("killed at %s: the deployment ended well", p)
		}
		h.died()
		h.killAt("")
		h.start()
		if _, err := h.client.Apply(h.ctx(), d, mvm.ApplyOptions{}, nil); err != nil {
			t.Fatalf("killed at %s: the next run: %v\n%s", p, err, h.log())
		}
		h.wantDeployed(d, "killed at "+p)
	}
	t.Logf("killed at %d points", len(points))
}

// wantDeployed checks that all is there, once, and that there is nothing left to do.
func (h *host) wantDeployed(d mvm.Deployment, when string) {
	h.t.Helper()
	got := map[string]int{}
	for _, i := range h.instances() {
		got[i.Pool+" "+string(i.State)]++
	}
	if len(got) != 3 || got["gateways running"] != 1 || got["workers running"] != 1 || got["workers warm"] != 1 {
		h.t.Fatalf("%s: there are %v, want 1 gateway and 1 worker running, and 1 worker warm\n%s", when, got, h.log())
	}
	h.wantOwned()
	if steps, err := h.client.Apply(h.ctx(), d, mvm.ApplyOptions{}, nil); err != nil || len(steps) > 0 {
		h.t.Errorf("%s: the run after that: %v, %v; want nothing to do", when, steps, err)
	}
	ten, _, err := h.client.Tenant(h.ctx(), "acme")
	must(h.t, err)
	if ten.SecretsGeneration != 1 {
		h.t.Errorf("%s: the secrets have generation %d, want 1: they were set once", when, ten.SecretsGeneration)
	}
}
