package agent_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/agent"
	"mvm/internal/store"
)

// edit changes the record of an instance while no agent runs.
func (h *host) edit(id string, change func(i *mvm.Instance)) {
	h.t.Helper()
	st, err := store.Open(filepath.Join(h.dir, "state.db"))
	must(h.t, err)
	must(h.t, st.Update(func(tx *store.Tx) error {
		i, err := tx.Instance(id)
		if err != nil {
			return err
		}
		change(&i)
		return tx.PutInstance(i)
	}))
	must(h.t, st.Close())
}

// asOlder makes of a sleeper, whose guest had the record before, one that an older version left:
// memory and device state in the clear, and no key.
func (h *host) asOlder(id string, before []byte) {
	h.t.Helper()
	var vmm struct {
		Guest json.RawMessage
		Spec  struct {
			VCPUs, MemMiB int
			Disks         []struct{ Serial string }
		}
	}
	must(h.t, json.Unmarshal(before, &vmm))
	disks := []string{}
	for _, d := range vmm.Spec.Disks {
		disks = append(disks, d.Serial)
	}
	write := func(v any, parts ...string) {
		b, err := json.Marshal(v)
		must(h.t, err)
		must(h.t, os.WriteFile(filepath.Join(append([]string{h.dir, "instances", id}, parts...)...), b, 0o600))
	}
	snap := h.get(id).Snapshot.ID
	h.stop()
	h.edit(id, func(i *mvm.Instance) {
		s := *i.Snapshot
		s.Sealed = false
		i.Snapshot = &s
	})
	for _, sub := range []string{"segments", "snapshots/" + snap} {
		must(h.t, os.RemoveAll(filepath.Join(h.dir, "instances", id, sub)))
	}
	must(h.t, os.Mkdir(filepath.Join(h.dir, "instances", id, "snapshots", snap), 0o700))
	write(map[string]any{"snapshot": "n", "guest": vmm.Guest}, "memory")
	write(map[string]any{"snapshot": "n", "version": "1", "vcpus": vmm.Spec.VCPUs, "mem_mib": vmm.Spec.MemMiB, "disks": disks}, "snapshots", snap, "state")
	h.start()
}

// TestSleeperOfAnOlderVersion: a guest that an older version put to sleep in the clear wakes
// with its memory, and can be set aside and brought back before. Its next sleep is sealed and
// leaves nothing in the clear.
func TestSleeperOfAnOlderVersion(t *testing.T) {
	d := newDamaged(t, agent.SetAsideLimits{})
	i := d.plain()
	boot := d.boot(i.ID)
	vmm, err := os.ReadFile(filepath.Join(d.run, "i", i.ID, "fake-vmm.json"))
	must(t, err)
	d.do(i.ID, mvm.OpSleep)
	d.asOlder(i.ID, vmm)

	d.bad.Store(true)
	if got := d.do(i.ID, mvm.OpWake); got.Last.Kind != "cold" {
		t.Fatalf("woken by %q from a snapshot that is bad", got.Last.Kind)
	}
	d.bad.Store(false)
	d.do(i.ID, mvm.OpStop)
	if _, err := d.a.RestoreSnapshot(ctx(t), i.Address(), d.snapshots(i.ID)[0].Snapshot.ID); err != nil {
		t.Fatal(err)
	}
	if got := d.do(i.ID, mvm.OpWake); got.Last.Kind != "warm" || d.boot(i.ID) != boot {
		t.Fatalf("woken by %q (%s), want its memory", got.Last.Kind, got.Last.Reason)
	}
	if got := d.do(i.ID, mvm.OpSleep); !got.Snapshot.Sealed {
		t.Errorf("it sleeps with %+v, want it sealed", got.Snapshot)
	}
	for _, name := range d.files(i.ID) {
		b, err := os.ReadFile(filepath.Join(d.dir, "instances", i.ID, name))
		must(t, err)
		if strings.Contains(string(b), boot) {
			t.Errorf("%s has the guest's memory in the clear", name)
		}
	}
	if files := d.files(i.ID); slices.Contains(files, "memory") {
		t.Errorf("asleep it has %v", files)
	}
	if got := d.do(i.ID, mvm.OpWake); got.Last.Kind != "warm" || d.boot(i.ID) != boot {
		t.Errorf("woken by %q (%s), want its memory", got.Last.Kind, got.Last.Reason)
	}
}

// TestTenantsKey: what sleeps of a tenant is read with its own key alone. It goes with the
// tenant, and one that the host has not got any more costs the memory and nothing else.
func TestTenantsKey(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	boot := h.boot(i.ID)
	h.do(i.ID, mvm.OpSleep)
	key := func(tenant string) (sealed []byte) {
		must(t, h.st.View(func(tx *store.Tx) error {
			sealed, _ = tx.TenantKey(tenant)
			return nil
		}))
		return sealed
	}
	was := key("acme")
	if was == nil {
		t.Fatal("the tenant has no key")
	}
	_, other, err := h.key.NewTenantKey("acme")
	must(t, err)
	put := func(sealed []byte) {
		must(t, h.st.Update(func(tx *store.Tx) error { return tx.PutTenantKey("acme", sealed, nil) }))
	}
	put(other)
	if got := h.do(i.ID, mvm.OpWake); got.Last.Kind != "cold" || !strings.Contains(got.Last.Reason, "sealed with key") {
		t.Errorf("woken by %q (%s) with another key, want a boot that says so", got.Last.Kind, got.Last.Reason)
	}
	put(was)
	booted := h.boot(i.ID)
	h.do(i.ID, mvm.OpSleep)
	if got := h.do(i.ID, mvm.OpWake); got.Last.Kind != "warm" || h.boot(i.ID) != booted || booted == boot {
		t.Errorf("woken by %q (%s), want its memory", got.Last.Kind, got.Last.Reason)
	}
	if err := h.a.DestroyTenant(ctx(t), "acme", nil); err != nil {
		t.Fatal(err)
	}
	if key("acme") != nil {
		t.Error("the key of a tenant that was destroyed is there")
	}
}

// files lists what is in the instance's folder.
func (h *host) files(id string) (names []string) {
	h.t.Helper()
	root := filepath.Join(h.dir, "instances", id)
	must(h.t, filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			rel, _ := filepath.Rel(root, path)
			names = append(names, rel)
		}
		return err
	}))
	return names
}

// TestKeyIsRotated: a tenant's new key opens what slept before, also what was set aside and what
// a guest that runs needs for its next sleep, and the former one is gone. A rotation that fails
// half-way costs no memory, and is finished later.
func TestKeyIsRotated(t *testing.T) {
	d := newDamaged(t, agent.SetAsideLimits{})
	i := d.plain()
	boot := d.boot(i.ID)
	aside := d.spoil(i.ID).Snapshot.ID
	second := d.boot(i.ID)
	asleep, err := d.a.CreateInstance(ctx(t), "acme", "plain", "")
	must(t, err)
	d.do(asleep.ID, mvm.OpStart)
	third := d.boot(asleep.ID)
	d.do(asleep.ID, mvm.OpSleep)
	d.do(i.ID, mvm.OpSleep)
	d.do(i.ID, mvm.OpWake)

	keys := func() (now, former []byte) {
		must(t, d.st.View(func(tx *store.Tx) error {
			now, former = tx.TenantKey("acme")
			return nil
		}))
		return now, former
	}
	first, _ := keys()
	segments := filepath.Join(d.dir, "instances", asleep.ID, "segments")
	must(t, os.Rename(segments, segments+".away"))
	must(t, os.WriteFile(segments, nil, 0o600))
	if err := d.a.RotateKey(ctx(t), "acme"); err == nil {
		t.Error("it is rotated, though files could not be opened")
	}
	if now, former := keys(); bytes.Equal(now, first) || !bytes.Equal(former, first) {
		t.Error("after a rotation that failed the former key is not kept")
	}
	must(t, os.Remove(segments))
	must(t, os.Rename(segments+".away", segments))
	d.stop()
	d.start() // it finishes what was cut off
	waitUntil(t, func() bool { _, former := keys(); return former == nil })
	must(t, d.a.RotateKey(ctx(t), "acme"))
	if now, former := keys(); bytes.Equal(now, first) || former != nil {
		t.Error("after a rotation there is a former key")
	}

	if got := d.do(asleep.ID, mvm.OpWake); got.Last.Kind != "warm" || d.boot(asleep.ID) != third {
		t.Errorf("the sleeper woke by %q (%s), want its memory", got.Last.Kind, got.Last.Reason)
	}
	previous := filepath.Join(d.dir, "instances", i.ID, "segments")
	before, err := os.ReadDir(previous)
	must(t, err)
	d.do(i.ID, mvm.OpSleep)
	if got := d.do(i.ID, mvm.OpWake); got.Last.Kind != "warm" || d.boot(i.ID) != second {
		t.Errorf("the guest that ran woke by %q (%s), want its memory", got.Last.Kind, got.Last.Reason)
	}
	if len(before) < 2 {
		t.Errorf("a guest with a snapshot set aside has segments %v", before)
	}
	d.do(i.ID, mvm.OpStop)
	if _, err := d.a.RestoreSnapshot(ctx(t), i.Address(), aside); err != nil {
		t.Fatal(err)
	}
	if got := d.do(i.ID, mvm.OpWake); got.Last.Kind != "warm" || d.boot(i.ID) != boot {
		t.Errorf("what was set aside woke by %q (%s), want its memory", got.Last.Kind, got.Last.Reason)
	}
}
