package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"

	"mvm"
	"mvm/internal/desired"
	"mvm/internal/sys"
)

const pemType = "PRIVATE KEY"

// Generate makes a new key: the private one in the file, mode 0600, and the public one
// beside it, with .pub after its name. Neither may be there. Both are durable at
// return.
func Generate(path string) (Key, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, mvm.Errorf(mvm.KindInternal, "make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return Key{}, mvm.Errorf(mvm.KindInternal, "make key: %w", err)
	}
	pub := path + ".pub"
	if _, err := os.Lstat(pub); !errors.Is(err, fs.ErrNotExist) {
		return Key{}, mvm.Errorf(mvm.KindExists, "create key: %s already exists", pub).WithFix("choose another name: an overwritten key can't be recovered")
	}
	if err := create(path, pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), 0o600); err != nil {
		return Key{}, err
	}
	line := base64.StdEncoding.EncodeToString(public) + "\n"
	if err := create(pub, []byte(line), 0o644); err != nil {
		return Key{}, errors.Join(err, os.Remove(path))
	}
	return Key{ID: desired.KeyID(public), File: pub, Public: public}, nil
}

// create writes a file that must not be there, durable.
func create(path string, data []byte, mode fs.FileMode) error {
	err := sys.CreateFile(path, data, mode)
	switch {
	case errors.Is(err, fs.ErrExist):
		return mvm.Errorf(mvm.KindExists, "create key: %s already exists", path).WithFix("choose another name: an overwritten key can't be recovered")
	case err != nil:
		return mvm.Errorf(mvm.KindInternal, "make key: %w", err)
	}
	return nil
}

// LoadPrivate reads a private key. The file must be this user's alone.
func LoadPrivate(path string) (ed25519.PrivateKey, error) {
	guard := sys.Guard{What: "signing key", Limit: maxKeyBytes, Forbid: 0o077}
	b, err := sys.ReadGuarded(path, guard)
	if err != nil {
		return nil, err
	}
	bad := mvm.Errorf(mvm.KindInvalid, "load signing key %s: it is not an Ed25519 key in PKCS#8 and PEM", path).
		WithFix("create one with `mvm desired keygen`")
	block, rest := pem.Decode(b)
	if block == nil || block.Type != pemType || len(rest) > 0 {
		return nil, bad
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, bad
	}
	private, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, bad
	}
	return private, nil
}
