package store

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"go.etcd.io/bbolt"

	"mvm"
	"mvm/internal/audit"
)

// VerifyFile follows the audit log in a copy of a state file, which it does not change.
// key may be nil: then the chain is followed and the seal of its ends not compared.
// KindState: the file is in use, or of a version without a chain. KindInternal: it is
// damaged, or no state file.
func VerifyFile(path string, key []byte, expect audit.Mark) (r mvm.AuditReport, err error) {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return r, mvm.Errorf(mvm.KindNotFound, "verify events of %s: it is not there", path)
	case err != nil:
		return r, openError(path, err)
	case !st.Mode().IsRegular():
		return r, damagedError(path, "it is no regular file")
	case st.Size() == 0:
		return r, damagedError(path, "it is empty")
	}
	err = guarded(path, func() error {
		r, err = verifyFile(path, key, expect)
		return err
	})
	return r, err
}

func verifyFile(path string, key []byte, expect audit.Mark) (r mvm.AuditReport, err error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return r, openError(path, err)
	}
	defer func() {
		if e := db.Close(); err == nil {
			err = e
		}
	}()
	s := &Store{db: db, path: path, opts: Options{AuditKey: key}}
	version, err := s.schemaVersion()
	switch {
	case err != nil:
		return r, openError(path, err)
	case version < 2:
		return r, mvm.Errorf(mvm.KindState, "verify events of %s: it has schema version %d, whose log has no chain", path, version).
			WithFix("start an agent of this version on it once")
	case version > SchemaVersion:
		return r, mvm.Errorf(mvm.KindState, "verify events of %s: it has schema version %d, and this mvm knows versions up to %d", path, version, SchemaVersion)
	}
	err = s.View(func(tx *Tx) error {
		r, err = tx.VerifyEvents(expect, nil)
		return err
	})
	return r, err
}
