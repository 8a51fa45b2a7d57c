package vm_test

import (
	"strconv"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/testenv"
)

// TestRollOut: memory, environment, a larger data disk and another image of a pool come
// to the instances that are there, with what is on their disks; one that sleeps gets
// them when it wakes.
func TestRollOut(t *testing.T) {
	h := newHost(t, "qemu")
	manifest := "[tenant]\nid = \"acme\"\n" + workerPool("workers", 1) + "min_running_seconds = 0\n"
	h.deploy(manifest)
	id := h.only("workers").ID
	h.mark(id, "kept")
	mem, disk := h.size(id)

	p, err := h.client.Pool(h.ctx(), "acme", "workers")
	must(t, err)
	p.Spec.Resources.MemMiB += 64
	p.Spec.Resources.DataDiskMiB *= 2
	p.Spec.Env["GREETING"] = "hello"
	h.change(p.Spec)
	if now := h.only("workers"); now.ID != id || now.State != mvm.StateRunning {
		t.Fatalf("it is %s %s, want %s running", now.ID, now.State, id)
	}
	mem2, disk2 := h.size(id)
	if mem2 <= mem+32<<10 || disk2 < disk*18/10 {
		t.Errorf("the guest has %d KiB of memory and %d KiB of disk, and had %d and %d", mem2, disk2, mem, disk)
	}
	if env, err := h.exec(id, "cat", "/etc/mvm-config/config.json"); err != nil || !strings.Contains(env, `"GREETING": "hello"`) {
		t.Errorf("configuration %s, %v; want the new environment", env, err)
	}
	if got, err := h.exec(id, "cat", "/data/mark"); err != nil || got != "kept" {
		t.Errorf("on the disk is %q, %v; want what was there", got, err)
	}

	p.Spec.Flake = imageRef(imgNext)
	h.change(p.Spec)
	if now := h.only("workers"); now.ID != id || now.State != mvm.StateRunning {
		t.Fatalf("with another image it is %s %s, want %s running", now.ID, now.State, id)
	}
	if line, err := h.exec(id, "cat", "/proc/cmdline"); err != nil || !strings.Contains(line, "mvmtest=next") {
		t.Errorf("the kernel's arguments are %q, %v; want those of the next image", line, err)
	}
	if got, err := h.exec(id, "cat", "/data/mark"); err != nil || got != "kept" {
		t.Errorf("with another image, on the disk is %q, %v; want what was there", got, err)
	}

	h.do(id, mvm.OpSleep)
	p.Spec.Resources.MemMiB += 64
	_, err = h.client.UpdatePool(h.ctx(), "acme", "workers", mvm.PoolUpdate{Spec: &p.Spec})
	must(t, err)
	i := h.do(id, mvm.OpWake)
	if i.Last.Kind != "cold" || !strings.Contains(i.Last.Reason, "mem_mib") {
		t.Errorf("it woke %s: %s; want a boot, and why", i.Last.Kind, i.Last.Reason)
	}
	if mem3, _ := h.size(id); mem3 <= mem2+32<<10 {
		t.Errorf("after the wake it has %d KiB of memory, and had %d", mem3, mem2)
	}
}

// change changes the pool, and waits until the agent has made its instances so.
func (h *host) change(spec mvm.PoolSpec) {
	h.t.Helper()
	_, err := h.client.UpdatePool(h.ctx(), "acme", "workers", mvm.PoolUpdate{Spec: &spec})
	must(h.t, err)
	testenv.Eventually(h.t, patience, func() error {
		steps, err := h.client.Reconcile(h.ctx(), mvm.ReconcileRequest{Tenant: "acme"}, nil)
		if err == nil && len(steps) > 0 {
			h.t.Logf("steps: %+v", steps)
		}
		return err
	})
}

// size is what the guest has of memory and of the file system of its data disk, in KiB.
func (h *host) size(id string) (mem, disk int) {
	h.t.Helper()
	info, err := h.exec(id, "cat", "/proc/meminfo")
	must(h.t, err)
	mem, err = strconv.Atoi(strings.Fields(info)[1])
	must(h.t, err)
	df, err := h.exec(id, "df", "-k", "/data")
	must(h.t, err)
	lines := strings.Split(strings.TrimSpace(df), "\n")
	disk, err = strconv.Atoi(strings.Fields(lines[len(lines)-1])[1])
	must(h.t, err)
	return mem, disk
}
