package secrets

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"mvm"
)

// A tenant's key as it is stored is 0x01, the id of the master key, a 12 byte random nonce,
// and AES-256-GCM of 32 random bytes under a key that is derived from the master key. It is
// random and not derived, so that it can be replaced, and so that nothing that it wrapped can
// be read after it was removed.
const (
	tenantKeyForm = 1
	tenantKeySize = keyedHead + KeySize + tagSize
	tagSize       = 16
	saltSize      = 16
)

// WrappedSize is the length of a key of KeySize bytes that a TenantKey has wrapped.
const WrappedSize = saltSize + KeySize + tagSize

// TenantKey wraps the keys of files that a tenant has at rest, such as snapshots. It may be
// used from many goroutines. It prints as a word, never as itself.
type TenantKey struct {
	secret []byte
	id     [IDSize]byte
	former *TenantKey // nil: none is in use any more
}

// NewTenantKey makes a random key for the tenant. sealed is what to store of it.
func (k *Key) NewTenantKey(tenant string) (t *TenantKey, sealed []byte, err error) {
	aead, err := k.tenantKeyAEAD(tenant)
	if err != nil {
		return nil, nil, err
	}
	secret := make([]byte, KeySize)
	rand.Read(secret)
	sealed = make([]byte, keyedHead, tenantKeySize)
	sealed[0] = tenantKeyForm
	copy(sealed[1:], k.id)
	nonce := sealed[1+IDSize:]
	rand.Read(nonce)
	sealed = aead.Seal(sealed, nonce, secret, []byte(tenant))
	t, err = newTenantKey(secret)
	return t, sealed, err
}

// OpenTenantKey opens what NewTenantKey sealed for the same tenant. KindInternal for anything
// else: another master key or tenant, or bytes that were changed.
func (k *Key) OpenTenantKey(tenant string, sealed []byte) (*TenantKey, error) {
	bad := func(why string) (*TenantKey, error) {
		return nil, mvm.Errorf(mvm.KindInternal, "open key of tenant %s: %s", tenant, why).
			WithFix("check that this is the master key that it was encrypted with")
	}
	switch {
	case len(sealed) != tenantKeySize || sealed[0] != tenantKeyForm:
		return bad("not in a format that this mvm knows")
	case !bytes.Equal(sealed[1:1+IDSize], k.id):
		return bad(fmt.Sprintf("it is sealed with master key %x, and this is %s", sealed[1:1+IDSize], k.ID()))
	}
	aead, err := k.tenantKeyAEAD(tenant)
	if err != nil {
		return nil, err
	}
	secret, err := aead.Open(nil, sealed[1+IDSize:keyedHead], sealed[keyedHead:], []byte(tenant))
	if err != nil {
		return bad("it does not fit the master key or the tenant")
	}
	return newTenantKey(secret)
}

func (k *Key) tenantKeyAEAD(tenant string) (cipher.AEAD, error) {
	return derivedAEAD(k.master, nil, "mvm tenant key 1\x00"+tenant)
}

// derivedAEAD is AES-256-GCM under a key that is derived from the secret.
func derivedAEAD(secret, salt []byte, info string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, secret, salt, info, KeySize)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "derive key: %w", err)
	}
	defer clear(key)
	return aesGCM(key)
}

// aesGCM is AES-256-GCM under the key.
func aesGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func newTenantKey(secret []byte) (*TenantKey, error) {
	id, err := hkdf.Key(sha256.New, secret, nil, "mvm tenant key id 1", IDSize)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "derive id of tenant key: %w", err)
	}
	return &TenantKey{secret: secret, id: [IDSize]byte(id)}, nil
}

// Over is the key, which also opens what the former one wrapped.
func (t *TenantKey) Over(former *TenantKey) *TenantKey {
	return &TenantKey{secret: t.secret, id: t.id, former: former}
}

// Named is the key with the id, among this one and the former; nil: neither has it.
func (t *TenantKey) Named(id [IDSize]byte) *TenantKey {
	for k := t; k != nil; k = k.former {
		if k.id == id {
			return k
		}
	}
	return nil
}

// ID names the key and says nothing else of it.
func (t *TenantKey) ID() [IDSize]byte { return t.id }

// String hides the key.
func (t *TenantKey) String() string { return "(key of a tenant " + hex.EncodeToString(t.id[:]) + ")" }

// GoString hides the key from %#v.
func (t *TenantKey) GoString() string { return t.String() }

// Format hides the key from every verb.
func (t *TenantKey) Format(s fmt.State, _ rune) { io.WriteString(s, t.String()) } //nolint:errcheck // fmt has no place for it

// Wrap encrypts a file's key of KeySize bytes, in WrappedSize bytes. additional is
// authenticated with it. Each wrap derives a key of its own from a random salt, so the number
// of wraps has no bound.
func (t *TenantKey) Wrap(key, additional []byte) ([]byte, error) {
	if len(key) != KeySize {
		return nil, mvm.Errorf(mvm.KindInternal, "wrap key: it has %d bytes, not %d", len(key), KeySize)
	}
	out := make([]byte, saltSize, WrappedSize)
	rand.Read(out)
	aead, err := derivedAEAD(t.secret, out, "mvm wrap 1")
	if err != nil {
		return nil, err
	}
	return aead.Seal(out, make([]byte, nonceSize), key, additional), nil
}

// Unwrap decrypts what Wrap made with the same key and additional bytes; ok is false for
// anything else.
func (t *TenantKey) Unwrap(wrapped, additional []byte) (key []byte, ok bool) {
	if len(wrapped) != WrappedSize {
		return nil, false
	}
	aead, err := derivedAEAD(t.secret, wrapped[:saltSize], "mvm wrap 1")
	if err != nil {
		return nil, false
	}
	key, err = aead.Open(nil, make([]byte, nonceSize), wrapped[saltSize:], additional)
	return key, err == nil
}
