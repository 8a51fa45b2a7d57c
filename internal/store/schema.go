package store

import (
	"fmt"
	"os"
	"strconv"

	"go.etcd.io/bbolt"

	"mvm"
	"mvm/internal/sys"
)

// The buckets; what they hold is drawn in the package comment.
const (
	bucketMeta      = "meta"
	bucketTenants   = "tenants"
	bucketSecrets   = "secrets"
	bucketNetIDs    = "net_ids"
	bucketPools     = "pools"
	bucketInstances = "instances"
	bucketByPool    = "instances_by_pool"
	bucketByKey     = "instances_by_key"
	bucketUIDs      = "uids"
	bucketEvents    = "events"
	bucketAudit     = "audit"

	bucketTransitions = "transitions"
	bucketKeys        = "tenant_keys"
)

// The names in meta that are the store's own.
const (
	metaSchema  = "schema_version"
	metaNextUID = "next_uid"
	metaUIDBase = "uid_base"
)

// SchemaVersion is the version of the files that this package writes.
const SchemaVersion = 5

// migration leads from the version before it to its own.
type migration struct {
	version int
	apply   func(*Store, *bbolt.Tx) error
}

// migrations are all there are, oldest first.
func migrations() []migration {
	return []migration{{version: 1, apply: makeBuckets}, {version: 2, apply: (*Store).chainEvents}, {version: 3, apply: keepTransitions},
		{version: 4, apply: nameNetIDs}, {version: 5, apply: keepKeys}}
}

// makeBuckets is version 1: the first schema.
func makeBuckets(_ *Store, tx *bbolt.Tx) error {
	for _, name := range []string{bucketMeta, bucketTenants, bucketSecrets, bucketNetIDs, bucketPools,
		bucketInstances, bucketByPool, bucketByKey, bucketUIDs, bucketEvents} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return fmt.Errorf("make bucket %s: %w", name, err)
		}
	}
	return nil
}

// keepTransitions is version 3: of each instance the last transitions are kept, and not
// only the last one.
func keepTransitions(s *Store, tx *bbolt.Tx) error {
	if _, err := tx.CreateBucketIfNotExists([]byte(bucketTransitions)); err != nil {
		return fmt.Errorf("make bucket %s: %w", bucketTransitions, err)
	}
	t := &Tx{b: tx, s: s}
	all, err := list[instanceRecord](t, bucketInstances, "")
	if err != nil {
		return err
	}
	for _, i := range all {
		if i.Last == nil {
			continue
		}
		if err := t.PutTransition(i.ID, *i.Last); err != nil {
			return err
		}
	}
	return nil
}

// keepKeys is version 5: tenants have keys. Those that are there get theirs when it is needed.
func keepKeys(_ *Store, tx *bbolt.Tx) error {
	_, err := tx.CreateBucketIfNotExists([]byte(bucketKeys))
	return err
}

// migrate brings the file to the version of the last migration.
func (s *Store) migrate(ms []migration) error {
	have, err := s.schemaVersion()
	if err != nil {
		return err
	}
	want := ms[len(ms)-1].version
	switch {
	case have > want:
		return mvm.Errorf(mvm.KindState, "it has schema version %d, and this mvm knows versions up to %d", have, want).
			WithFix("use the mvm version that wrote it, or a newer one")
	case have == want:
		return nil
	case have > 0:
		if err := s.backup(have); err != nil {
			return err
		}
	}
	return s.db.Update(func(tx *bbolt.Tx) error {
		for _, m := range ms {
			if m.version <= have {
				continue
			}
			if err := s.seam(SeamMigrate); err != nil {
				return err
			}
			if err := m.apply(s, tx); err != nil {
				return fmt.Errorf("migrate to schema version %d: %w", m.version, err)
			}
		}
		return tx.Bucket([]byte(bucketMeta)).Put([]byte(metaSchema), []byte(strconv.Quote(strconv.Itoa(want))))
	})
}

// schemaVersion is 0 for a file without a schema.
func (s *Store) schemaVersion() (int, error) {
	version := 0
	err := s.db.View(func(b *bbolt.Tx) error {
		if b.Bucket([]byte(bucketMeta)) == nil {
			return nil
		}
		tx := &Tx{b: b, s: s}
		text, ok, err := tx.Meta(metaSchema)
		if err != nil || !ok {
			return err
		}
		if version, err = strconv.Atoi(text); err != nil || version < 1 {
			return mvm.Errorf(mvm.KindInternal, "its schema version %q is not a number", text)
		}
		return nil
	})
	return version, err
}

// backup writes a copy of the whole file beside it, durable, before a migration.
func (s *Store) backup(version int) error {
	path := fmt.Sprintf("%s.v%d", s.path, version)
	err := s.db.View(func(tx *bbolt.Tx) error { return tx.CopyFile(path+".tmp", 0o600) })
	if err == nil {
		err = sys.SyncFile(path + ".tmp")
	}
	if err == nil {
		err = sys.Rename(path+".tmp", path)
	}
	if err != nil {
		os.Remove(path + ".tmp") //nolint:errcheck // the copy is worthless; the cause is reported
		return fmt.Errorf("copy it to %s: %w", path, err)
	}
	return nil
}
