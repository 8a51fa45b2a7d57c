package secrets

import (
	"crypto/hkdf"
	"crypto/sha256"

	"mvm"
)

// AuditKey is the key that seals the ends of the host's audit log: HKDF-SHA256 of the
// master key.
func (k *Key) AuditKey() ([]byte, error) {
	b, err := hkdf.Key(sha256.New, k.master, nil, "mvm audit log 1", 32)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "derive key of audit log: %w", err)
	}
	return b, nil
}

// LoadKey reads the master key from the file, which must be as LoadOrCreateKey wants
// it. One that is not there is fs.ErrNotExist.
func LoadKey(path string) (*Key, error) { return loadKey(path) }
