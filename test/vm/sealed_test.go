package vm_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/atrest"
	"mvm/internal/secrets"
	"mvm/internal/snapshot"
	"mvm/internal/store"
	"mvm/internal/sys"
	"mvm/internal/tenantkey"
	"mvm/internal/testenv"
)

// tenantKey is the tenant's key as the host has it on disk, nil when it has none.
func (h *host) tenantKey(tenant string) (key *tenantkey.Key) {
	h.t.Helper()
	master, err := secrets.LoadKey(h.options().KeyFile)
	must(h.t, err)
	testenv.Eventually(h.t, patience, func() error { // the agent may write meanwhile
		b, err := os.ReadFile(filepath.Join(h.data, "state.db"))
		must(h.t, err)
		path := filepath.Join(h.t.TempDir(), "state.db")
		must(h.t, os.WriteFile(path, b, 0o600))
		st, err := store.Open(path)
		if err != nil {
			return err
		}
		defer st.Close()
		return st.View(func(tx *store.Tx) (err error) {
			sealed, _ := tx.TenantKey(tenant)
			if key = nil; sealed != nil {
				key, err = master.OpenTenantKey(tenant, sealed)
			}
			return err
		})
	})
	return key
}

// sealedIn is a snapshot in a copy of an instance's folder.
func sealedIn(dir string, i mvm.Instance, key *tenantkey.Key) (driver.Snapshot, error) {
	f := snapshot.Files{Instance: i.ID, Tenant: i.Tenant, Dir: dir, UID: i.UID,
		Shared: &snapshot.Shared{Key: func(string) (*tenantkey.Key, error) { return key, nil }, Segments: atrest.Segments{}}}
	return f.Of(*i.Snapshot)
}

// read opens a snapshot and reads all of it.
func read(ctx context.Context, dir string, i mvm.Instance, key *tenantkey.Key, to io.WriterAt) ([]byte, error) {
	snap, err := sealedIn(dir, i, key)
	if err != nil {
		return nil, err
	}
	s, err := atrest.Open(dir, snap, i.Res.MemMiB)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Device(), s.Fill(ctx, to)
}

// testKey: a copy of what a sleeping guest left is opened with its tenant's key. Once the tenant
// is destroyed, the host has no key that opens it, and one for a new tenant of the name does not.
func (h *host) testKey() {
	i := h.do(h.only("workers").ID, mvm.OpSleep)
	dir := filepath.Join(h.t.TempDir(), i.ID)
	must(h.t, os.CopyFS(dir, os.DirFS(filepath.Join(h.data, "instances", i.ID))))
	for _, sub := range []string{"", "segments", "snapshots", "snapshots/" + i.Snapshot.ID} {
		must(h.t, os.Chmod(filepath.Join(dir, sub), 0o700))
	}
	f, err := os.Create(filepath.Join(h.t.TempDir(), "memory"))
	must(h.t, err)
	defer f.Close()
	key := h.tenantKey("acme")
	if device, err := read(h.ctx(), dir, i, key, f); err != nil || len(device) == 0 {
		h.t.Fatalf("with its tenant's key: %v", err)
	}
	must(h.t, h.client.DestroyTenant(h.ctx(), "acme", nil))
	if key := h.tenantKey("acme"); key != nil {
		h.t.Errorf("the key of a tenant that was destroyed is there: %v", key)
	}
	_, err = h.client.CreateTenant(h.ctx(), mvm.TenantSpec{ID: "acme"})
	must(h.t, err)
	if _, err := read(h.ctx(), dir, i, h.tenantKey("acme"), f); !driver.BadSnapshot(err) {
		h.t.Errorf("with the key of a new tenant: %v, want that it is of another", err)
	}
	must(h.t, h.client.DestroyTenant(h.ctx(), "acme", nil))
}

// unseal writes the memory and the device state of a sleeping instance to files, as QEMU alone
// restores them.
func (h *host) unseal(id, memory, state string) {
	h.t.Helper()
	i := h.get(id)
	f, err := os.OpenFile(memory, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	must(h.t, err)
	defer f.Close()
	must(h.t, f.Truncate(int64(i.Res.MemMiB)<<20))
	device, err := read(h.ctx(), filepath.Join(h.data, "instances", id), i, h.tenantKey(i.Tenant), f)
	if err != nil {
		h.t.Fatal(fmt.Errorf("unseal: %w", err))
	}
	must(h.t, os.WriteFile(state, device, 0o600))
	must(h.t, f.Sync())
	must(h.t, sys.SyncFile(state))
}
