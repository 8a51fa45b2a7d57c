package secrets

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"mvm"
)

// Hash names a tenant's secrets, as "sha256:" and 64 hex digits: an HMAC of names and
// values under a key of its own, derived from the master key, so that nobody without that can try
// out values against it. Equal secrets of a tenant have equal hashes on hosts with
// the same master key.
func (k *Key) Hash(tenant string, values map[string][]byte) (string, error) {
	key, err := hkdf.Key(sha256.New, k.master, nil, "mvm secrets hash 1\x00"+tenant, 32)
	if err != nil {
		return "", mvm.Errorf(mvm.KindInternal, "hash secrets of tenant %s: no key", tenant)
	}
	plain, err := json.Marshal(values) // sorted by name
	if err != nil {
		return "", mvm.Errorf(mvm.KindInternal, "hash secrets of tenant %s: encode", tenant)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(plain)
	return "sha256:" + hex.EncodeToString(mac.Sum(nil)), nil
}

// ChannelKey is the key with which a channel's gateway and workers know each other. It does
// not depend on the tenant's secrets.
func (k *Key) ChannelKey(tenant, pool, channel string) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, k.master, nil, "mvm channel 1\x00"+tenant+"\x00"+pool+"\x00"+channel, 32)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "make key of channel %s/%s %s: %w", tenant, pool, channel, err)
	}
	return key, nil
}
