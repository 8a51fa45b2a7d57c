package secrets

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"mvm/internal/tenantkey"

	"mvm"
)

const (
	sealPlain = 1 // version, nonce, ciphertext
	sealKeyed = 2 // version, key id, nonce, ciphertext
	nonceSize = 12
	keyedHead = 1 + IDSize + nonceSize
)

// Seal encrypts the values of a tenant's generation. It refuses names and sizes
// that mvm.ValidateSecrets refuses.
func (k *Key) Seal(tenant string, generation int, values map[string][]byte) ([]byte, error) {
	if err := mvm.ValidateSecrets(values); err != nil {
		return nil, err
	}
	aead, err := k.aead(tenant)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "seal secrets of tenant %s: %w", tenant, err)
	}
	plain, err := json.Marshal(values)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "seal secrets of tenant %s: encode", tenant)
	}
	sealed := make([]byte, keyedHead, keyedHead+len(plain)+aead.Overhead())
	sealed[0] = sealKeyed
	copy(sealed[1:], k.id)
	nonce := sealed[1+IDSize:]
	rand.Read(nonce)
	return aead.Seal(sealed, nonce, plain, additional(tenant, generation)), nil
}

// Open decrypts what Seal made for the same tenant and generation. KindInternal
// for anything else: another key, tenant or generation, or bytes that were changed.
// No bytes at all are no secrets.
func (k *Key) Open(tenant string, generation int, sealed []byte) (map[string][]byte, error) {
	values := map[string][]byte{}
	if len(sealed) == 0 {
		return values, nil
	}
	bad := func(why string) (map[string][]byte, error) {
		return nil, mvm.Errorf(mvm.KindInternal, "open secrets of tenant %s, generation %d: %s", tenant, generation, why).
			WithFix("check that this is the master key they were encrypted with, or set the secrets again")
	}
	var nonce, box []byte
	switch {
	case sealed[0] == sealPlain && len(sealed) >= 1+nonceSize:
		nonce, box = sealed[1:1+nonceSize], sealed[1+nonceSize:]
	case sealed[0] != sealKeyed || len(sealed) < keyedHead:
		return bad("not in a format that this mvm knows")
	case !bytes.Equal(sealed[1:1+IDSize], k.id):
		return bad(fmt.Sprintf("they are sealed with master key %x, and this is %s", sealed[1:1+IDSize], k.ID()))
	default:
		nonce, box = sealed[1+IDSize:keyedHead], sealed[keyedHead:]
	}
	aead, err := k.aead(tenant)
	if err != nil {
		return bad("no cipher")
	}
	plain, err := aead.Open(nil, nonce, box, additional(tenant, generation))
	if err != nil {
		return bad("they do not fit the key, the tenant or the generation")
	}
	if json.Unmarshal(plain, &values) != nil { // its error could quote a value
		return bad("not a table of values")
	}
	return values, nil
}

func (k *Key) aead(tenant string) (cipher.AEAD, error) {
	key, err := k.tenantKey(tenant)
	if err != nil {
		return nil, err
	}
	return tenantkey.AESGCM(key)
}

// additional is what is authenticated with the values. A tenant's id has no NUL.
func additional(tenant string, generation int) []byte {
	b := append([]byte("mvm secrets\x00"), tenant...)
	return binary.BigEndian.AppendUint64(append(b, 0), uint64(generation))
}

// Merge returns a copy of values with the changes made: a nil value removes its
// name, any other adds or replaces it. Removing what is not there is an error of
// KindNotFound.
func Merge(values, changes map[string][]byte) (map[string][]byte, error) {
	out := maps.Clone(values)
	if out == nil {
		out = map[string][]byte{}
	}
	for name, v := range changes {
		if v != nil {
			out[name] = v
			continue
		}
		if _, ok := out[name]; !ok {
			return nil, mvm.Errorf(mvm.KindNotFound, "remove secret %q: there is no such secret", name)
		}
		delete(out, name)
	}
	return out, nil
}
