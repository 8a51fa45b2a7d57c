package store

import (
	"encoding/json"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"mvm"
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

// RecordJSON is what a noun is on disk, and NounOf the noun again.
func RecordJSON(noun any) ([]byte, error) {
	switch v := noun.(type) {
	case mvm.Tenant:
		return json.Marshal(recordOfTenant(v))
	case mvm.Pool:
		return json.Marshal(recordOfPool(v))
	case mvm.Instance:
		return json.Marshal(recordOfInstance(v))
	case mvm.Transition:
		return json.Marshal(recordOfTransition(v))
	case mvm.Event:
		return json.Marshal(recordOfEvent(v))
	}
	return nil, fmt.Errorf("%T is not kept", noun)
}

// NounOf reads what RecordJSON wrote, of the type of like.
func NounOf(like any, raw []byte) (any, error) {
	switch like.(type) {
	case mvm.Tenant:
		return decodeAs[tenantRecord]("", nil, raw)
	case mvm.Pool:
		return decodeAs[poolRecord]("", nil, raw)
	case mvm.Instance:
		return decodeAs[instanceRecord]("", nil, raw)
	case mvm.Transition:
		return decodeAs[transitionRecord]("", nil, raw)
	case mvm.Event:
		return decodeAs[eventRecord]("", nil, raw)
	}
	return nil, fmt.Errorf("%T is not kept", like)
}
