// Package trust reads and makes the Ed25519 keys of desired states on disk: the public
// keys that a host trusts (/etc/mvm/trusted_keys/*.pub) and the private key of a
// signer.
//
// A public key is one line of standard base64 of its 32 bytes. A private key is
// PKCS#8 in PEM, as `openssl genpkey -algorithm ed25519` makes it. No error of this
// package holds a private key.
package trust

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mvm"
	"mvm/internal/desired"
	"mvm/internal/sys"
)

// Bounds of a folder of trusted keys.
const (
	maxKeys     = 64
	maxEntries  = 1024
	maxKeyBytes = 4096
)

// Key is a public key that a host trusts.
type Key struct {
	ID     string // desired.KeyID
	File   string // where it is from
	Public ed25519.PublicKey
}

// Load reads the public keys in the folder: its files that end in .pub. It is all or
// nothing: one that can't be believed (its form, its owner, its mode) is an error and
// no reason to go on with the others, because the administrator means something that
// mvm would not do. A folder that is not there has no keys.
func Load(dir string) ([]Key, error) {
	guard := sys.Guard{What: "trusted key", Limit: maxKeyBytes, Forbid: 0o022, RootToo: true}
	names, err := pubFiles(dir)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	if err := guard.CheckFolder(dir, names[0]); err != nil {
		return nil, err
	}
	var keys []Key
	for _, path := range names {
		b, err := sys.ReadGuarded(path, guard)
		if err != nil {
			return nil, err
		}
		k, err := parsePublic(path, b)
		if err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(keys, func(other Key) bool { return other.ID == k.ID }); i >= 0 {
			return nil, mvm.Errorf(mvm.KindPolicy, "load trusted key %s: it is the same key as %s", path, keys[i].File).WithFix("remove one of them")
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// pubFiles returns the paths of the .pub files of the folder, sorted.
func pubFiles(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "load trusted keys: %w", err)
	}
	defer func() { _ = d.Close() }()
	names, err := d.Readdirnames(maxEntries)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, mvm.Errorf(mvm.KindInternal, "load trusted keys: %w", err)
	}
	var paths []string
	for _, n := range names {
		if strings.HasSuffix(n, ".pub") {
			paths = append(paths, filepath.Join(dir, n))
		}
	}
	if len(paths) > maxKeys || len(names) == maxEntries {
		return nil, mvm.Errorf(mvm.KindPolicy, "load trusted keys: %s has more than %d keys or %d files", dir, maxKeys, maxEntries-1)
	}
	slices.Sort(paths)
	return paths, nil
}

func parsePublic(path string, b []byte) (Key, error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return Key{}, mvm.Errorf(mvm.KindPolicy, "load trusted key %s: it is not one line of base64 of %d bytes", path, ed25519.PublicKeySize).
			WithFix("use the .pub file that `mvm desired keygen` created")
	}
	return Key{ID: desired.KeyID(raw), File: path, Public: raw}, nil
}

// Verifier returns what checks signatures by the keys.
func Verifier(keys []Key) desired.Verifier {
	var v desired.Verifier
	for _, k := range keys {
		v.Keys = append(v.Keys, k.Public)
	}
	return v
}
