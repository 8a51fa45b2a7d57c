package store

import (
	"errors"

	"go.etcd.io/bbolt"
)

// OpenAt opens with the schema as of the version, 1 or later; for versions that do not
// exist yet it makes migrations that note themselves in meta and fail when asked to.
func OpenAt(path string, opts Options, version int, fail bool) (*Store, error) {
	ms := migrations()
	for v := SchemaVersion + 1; v <= version; v++ {
		ms = append(ms, migration{version: v, apply: func(_ *Store, tx *bbolt.Tx) error {
			if err := tx.Bucket([]byte(bucketMeta)).Put([]byte("migrated"), []byte(`"yes"`)); err != nil {
				return err
			}
			if fail {
				return errors.New("made to fail")
			}
			return nil
		}})
	}
	return open(path, opts, ms[:version])
}

// Raw changes the open file behind the store's back.
func (s *Store) Raw(fn func(*bbolt.Tx) error) error { return s.db.Update(fn) }
