// Package tenantkey has the keys of tenants, which wrap the keys of files that they have at
// rest. Package secrets makes them, and opens them with the master key.
package tenantkey

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
)

// Size and IDSize are the lengths of a key and of its id, in bytes.
const (
	Size   = 32
	IDSize = 8
)

const (
	tagSize   = 16
	saltSize  = 16
	nonceSize = 12
)

// WrappedSize is the length of a key of Size bytes that a Key has wrapped.
const WrappedSize = saltSize + Size + tagSize

// Key wraps the keys of files that a tenant has at rest, such as snapshots. It may be
// used from many goroutines. It prints as a word, never as itself.
type Key struct {
	secret []byte
	id     [IDSize]byte
	former *Key // nil: none is in use any more
}

// New makes a key of Size random bytes, which it keeps.
func New(secret []byte) (*Key, error) {
	id, err := hkdf.Key(sha256.New, secret, nil, "mvm tenant key id 1", IDSize)
	if err != nil {
		return nil, fmt.Errorf("derive id of tenant key: %w", err)
	}
	return &Key{secret: secret, id: [IDSize]byte(id)}, nil
}

// Over is the key, which also opens what the former one wrapped.
func (t *Key) Over(former *Key) *Key {
	return &Key{secret: t.secret, id: t.id, former: former}
}

// Named is the key with the id, among this one and the former; nil: neither has it.
func (t *Key) Named(id [IDSize]byte) *Key {
	for k := t; k != nil; k = k.former {
		if k.id == id {
			return k
		}
	}
	return nil
}

// ID names the key and says nothing else of it.
func (t *Key) ID() [IDSize]byte { return t.id }

// String hides the key.
func (t *Key) String() string { return "(key of a tenant " + hex.EncodeToString(t.id[:]) + ")" }

// GoString hides the key from %#v.
func (t *Key) GoString() string { return t.String() }

// Format hides the key from every verb.
func (t *Key) Format(s fmt.State, _ rune) { io.WriteString(s, t.String()) } //nolint:errcheck // fmt has no place for it

// Wrap encrypts a file's key of Size bytes, in WrappedSize bytes. additional is
// authenticated with it. Each wrap derives a key of its own from a random salt, so the number
// of wraps has no bound.
func (t *Key) Wrap(key, additional []byte) ([]byte, error) {
	if len(key) != Size {
		return nil, fmt.Errorf("wrap key: it has %d bytes, not %d", len(key), Size)
	}
	out := make([]byte, saltSize, WrappedSize)
	rand.Read(out)
	aead, err := Derived(t.secret, out, "mvm wrap 1")
	if err != nil {
		return nil, err
	}
	return aead.Seal(out, make([]byte, nonceSize), key, additional), nil
}

// Unwrap decrypts what Wrap made with the same key and additional bytes; ok is false for
// anything else.
func (t *Key) Unwrap(wrapped, additional []byte) (key []byte, ok bool) {
	if len(wrapped) != WrappedSize {
		return nil, false
	}
	aead, err := Derived(t.secret, wrapped[:saltSize], "mvm wrap 1")
	if err != nil {
		return nil, false
	}
	key, err = aead.Open(nil, make([]byte, nonceSize), wrapped[saltSize:], additional)
	return key, err == nil
}

// Derived is AES-256-GCM under a key that is derived from the secret.
func Derived(secret, salt []byte, info string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, secret, salt, info, Size)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	defer clear(key)
	return AESGCM(key)
}

// AESGCM is AES-256-GCM under the key.
func AESGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
