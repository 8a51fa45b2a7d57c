package host

import (
	"errors"
	"io/fs"
	"path/filepath"

	"mvm"
	"mvm/internal/audit"
	"mvm/internal/secrets"
	"mvm/internal/store"
)

// openStore opens the host's state, whose audit log is sealed with the host's key.
func openStore(o Options, key *secrets.Key) (*store.Store, error) {
	seal, err := key.AuditKey()
	if err != nil {
		return nil, err
	}
	return store.OpenWith(filepath.Join(o.DataDir, "state.db"), store.Options{AuditKey: seal, KeyID: key.ID(), ReplacesKey: o.Trust.ReplacesKey})
}

// VerifyAudit follows the audit log in a copy of a state file. Without the key file,
// or the right to read it, the chain is followed and its seal not compared.
func VerifyAudit(file, keyFile, expect string) (mvm.AuditReport, error) {
	var mark audit.Mark
	if expect != "" {
		var err error
		if mark, err = audit.ParseMark(expect); err != nil {
			return mvm.AuditReport{}, err
		}
	}
	var seal []byte
	key, err := secrets.LoadKey(keyFile)
	switch {
	case err == nil:
		if seal, err = key.AuditKey(); err != nil {
			return mvm.AuditReport{}, err
		}
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission):
		return mvm.AuditReport{}, err
	}
	return store.VerifyFile(file, seal, mark)
}
