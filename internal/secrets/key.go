// Package secrets keeps the tenants' secrets sealed at rest and says which of them
// the guests of a pool get.
//
// Sealed bytes are 0x02, the 8 byte id of the master key, a 12 byte random nonce, and
// AES-256-GCM of the values as JSON; those that begin with 0x01 are older and have no id. Each tenant has a key of its own, HKDF-SHA256 of the host's master key with
// the tenant's id. Tenant and generation are authenticated with the values, so that
// neither another tenant's bytes nor an older generation's can be put in their
// place. The master key is a file outside the data directory: a copy of that
// directory alone gives no secret away.
//
// No error of this package holds a value or the key.
package secrets

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"mvm"
	"mvm/internal/sys"
)

// KeySize is the length of a master key, in bytes.
const KeySize = 32

// Key is a host's master key. It may be used from many goroutines. It prints as a
// word, never as itself.
type Key struct {
	master []byte
	id     []byte // IDSize bytes
}

// NewKey makes a Key of KeySize bytes, which it copies.
func NewKey(master []byte) (*Key, error) {
	if len(master) != KeySize {
		return nil, mvm.Errorf(mvm.KindInvalid, "master key has %d bytes, not %d", len(master), KeySize)
	}
	id, err := hkdf.Key(sha256.New, master, nil, "mvm master key id 1", IDSize)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "derive id of master key: %w", err)
	}
	return &Key{master: append([]byte(nil), master...), id: id}, nil
}

// Lock moves the key into memory that is never swapped out. Where the limit of locked
// memory does not allow it, the key stays where it is. It comes before any other use.
func (k *Key) Lock() error {
	locked, err := sys.LockedCopy(k.master)
	if err != nil {
		return mvm.Errorf(mvm.KindPolicy, "lock master key in memory: %w", err)
	}
	clear(k.master)
	k.master = locked
	return nil
}

// String hides the key.
func (k *Key) String() string { return "(master key)" }

// GoString hides the key from %#v.
func (k *Key) GoString() string { return k.String() }

// Format hides the key from every verb.
func (k *Key) Format(s fmt.State, _ rune) { io.WriteString(s, k.String()) } //nolint:errcheck // fmt has no place for it

// MarshalText refuses: a key is never part of a message or file of ours.
func (k *Key) MarshalText() ([]byte, error) {
	return nil, errors.New("a master key is not written")
}

// IDSize is the length of a key's id, in bytes.
const IDSize = 8

// ID names the key, in hex, and says nothing else of it.
func (k *Key) ID() string { return hex.EncodeToString(k.id) }

func (k *Key) tenantKey(tenant string) ([]byte, error) {
	return hkdf.Key(sha256.New, k.master, nil, "mvm tenant secrets 1\x00"+tenant, 32)
}

// LoadOrCreateKey reads the master key from the file; without the file it makes one
// of random bytes, durable, so that there is either no file or a whole key after a crash, and
// agents that start at once agree on one. The file must be a regular file of this
// user with mode 0600 or stricter and KeySize bytes, no symlink, in a folder where nobody else
// can replace it; anything else is KindPolicy, with what to do.
func LoadOrCreateKey(path string) (*Key, error) {
	k, err := loadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if err := createKey(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, mvm.Errorf(mvm.KindInternal, "create master key %s: %w", path, err)
	}
	return loadKey(path)
}

func loadKey(path string) (*Key, error) {
	master, err := sys.ReadGuarded(path, sys.Guard{What: "master key", Limit: KeySize, Forbid: 0o077})
	if err != nil {
		return nil, err
	}
	defer clear(master)
	if len(master) != KeySize {
		return nil, refuseKey(path, fmt.Sprintf("it does not have %d bytes", KeySize)).
			WithFix("restore the right key: without it the encrypted secrets cannot be read")
	}
	return NewKey(master)
}

func refuseKey(path, why string) *mvm.Error {
	return mvm.Errorf(mvm.KindPolicy, "load master key %s: %s", path, why)
}

// createKey puts a new key in place with a link, which fails where a file is.
func createKey(path string) (err error) {
	dir := filepath.Dir(path)
	if err := sys.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	master := make([]byte, KeySize)
	rand.Read(master)
	f, err := os.CreateTemp(dir, ".mvm-master-key") // 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name()), sys.SyncDir(dir)) }()
	_, err = f.Write(master)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}
