package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"mvm"
	"mvm/internal/store"
	"mvm/internal/testenv/durable"
)

func metaOf(t *testing.T, s *store.Store, name string) string {
	t.Helper()
	var got string
	view(t, s, func(tx *store.Tx) (err error) {
		got, _, err = tx.Meta(name)
		return err
	})
	return got
}

// Migration 1 makes every bucket in a new file, and a file of version 1 is not touched again.
func TestMigration1MakesTheSchema(t *testing.T) {
	s, err := store.OpenAt(filepath.Join(t.TempDir(), "state.db"), store.Options{}, 1, false)
	if err != nil {
		t.Fatal(err)
	}
	if got := metaOf(t, s, "schema_version"); got != "1" {
		t.Errorf("got schema version %q, want 1", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(s.Path(), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		for _, name := range []string{"meta", "tenants", "secrets", "net_ids", "pools", "instances",
			"instances_by_pool", "instances_by_key", "uids", "events"} {
			if tx.Bucket([]byte(name)) == nil {
				t.Errorf("bucket %s is not there", name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestOlderFileIsMigratedAfterACopy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	old, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	update(t, old, func(tx *store.Tx) error { return addTenant(tx, "acme") })
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}

	if _, err := store.OpenAt(path, store.Options{}, store.SchemaVersion+1, true); err == nil {
		t.Fatal("a migration that fails must fail Open")
	}
	s, err := store.Open(path)
	if err != nil {
		t.Fatalf("after a migration that failed the file is as it was: %v", err)
	}
	if got := metaOf(t, s, "migrated"); got != "" {
		t.Errorf("a migration that failed left %q behind", got)
	}
	s.Close()

	durable.Self(t, filepath.Dir(path), nil, func() { s, err = store.OpenAt(path, store.Options{}, store.SchemaVersion+1, false) })
	if err != nil {
		t.Fatal(err)
	}
	if got := metaOf(t, s, "migrated"); got != "yes" {
		t.Errorf("got migrated %q, want yes", got)
	}
	view(t, s, func(tx *store.Tx) error { _, err := tx.Tenant("acme"); return err })
	s.Close()

	backup, err := store.Open(fmt.Sprintf("%s.v%d", path, store.SchemaVersion))
	if err != nil {
		t.Fatalf("the copy from before the migration: %v", err)
	}
	defer backup.Close()
	view(t, backup, func(tx *store.Tx) error { _, err := tx.Tenant("acme"); return err })
}

func TestNewerFileIsRefusedAndLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := store.OpenAt(path, store.Options{}, store.SchemaVersion+3, false)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Open(path)
	wantKind(t, err, mvm.KindState)
	if after, _ := os.ReadFile(path); string(after) != string(before) {
		t.Error("the newer file was changed")
	}
}

// Migration 4 says whose a net_id is; one whose tenant is gone counts as given up now.
func TestMigration4NamesNetIDs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx *store.Tx) error { return addTenant(tx, "acme") })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	tamperFile(t, path, func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("net_ids"))
		return errors.Join(b.Put([]byte{0, 0}, []byte(`"taken"`)), b.Put([]byte{0, 1}, []byte(`"taken"`)),
			tx.Bucket([]byte("meta")).Put([]byte("schema_version"), []byte(`"3"`)))
	})
	if s, err = store.Open(path); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	view(t, s, func(tx *store.Tx) error { return tx.Check() })
	soon, later := time.Now().Add(time.Hour), time.Now().Add(store.NetIDQuarantine+time.Hour)
	wantKind(t, s.Update(func(tx *store.Tx) error { return tx.ReserveNetID("beta", 1, soon) }), mvm.KindExists)
	wantKind(t, s.Update(func(tx *store.Tx) error { return tx.ReserveNetID("beta", 1, later) }), "")
	wantKind(t, s.Update(func(tx *store.Tx) error { return tx.ReserveNetID("beta", 0, later) }), mvm.KindExists)
}

// A new file and its folder outlive a crash of the host from the moment that Open returns.
func TestNewFileIsDurable(t *testing.T) {
	dir := t.TempDir()
	var s *store.Store
	var err error
	w := durable.Self(t, dir, nil, func() { s, err = store.Open(filepath.Join(dir, "data", "state.db")) })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if w.Changes(t) == 0 {
		t.Error("nothing was seen of what Open wrote")
	}
	durable.Self(t, dir, nil, func() { update(t, s, func(tx *store.Tx) error { return addTenant(tx, "acme") }) })
}
