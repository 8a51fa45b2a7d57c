package secrets

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"
	"mvm/internal/tenantkey"

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
)

// NewTenantKey makes a random key for the tenant. sealed is what to store of it.
func (k *Key) NewTenantKey(tenant string) (t *tenantkey.Key, sealed []byte, err error) {
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
	t, err = tenantkey.New(secret)
	return t, sealed, err
}

// OpenTenantKey opens what NewTenantKey sealed for the same tenant. KindInternal for anything
// else: another master key or tenant, or bytes that were changed.
func (k *Key) OpenTenantKey(tenant string, sealed []byte) (*tenantkey.Key, error) {
	bad := func(why string) (*tenantkey.Key, error) {
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
	return tenantkey.New(secret)
}

func (k *Key) tenantKeyAEAD(tenant string) (cipher.AEAD, error) {
	return tenantkey.Derived(k.master, nil, "mvm tenant key 1\x00"+tenant)
}
