package store

import (
	"encoding/binary"
	"fmt"

	"github.com/go-json-experiment/json/v1" // reads what encoding/json wrote, three times as fast
	"go.etcd.io/bbolt"

	"mvm"
	"mvm/internal/audit"
)

// Tx is a transaction, valid until the function that got it returns, and for one
// goroutine. What it returns is a copy and may be kept and changed. Methods that
// write return an error within a View.
type Tx struct {
	b        *bbolt.Tx
	s        *Store
	appended bool
	fleet    fleet       // what it changes in the counts
	log      *audit.Ends // of the audit log, once it is changed
}

func (t *Tx) bucket(name string) *bbolt.Bucket { return t.b.Bucket([]byte(name)) }

func (t *Tx) put(bucket string, key []byte, v any) error {
	raw, err := json.Marshal(v)
	if err == nil {
		err = t.bucket(bucket).Put(key, raw)
	}
	return t.wrote(bucket, key, err)
}

func (t *Tx) putRaw(bucket string, key, raw []byte) error {
	return t.wrote(bucket, key, t.bucket(bucket).Put(key, raw))
}

func (t *Tx) delete(bucket string, key []byte) error {
	return t.wrote(bucket, key, t.bucket(bucket).Delete(key))
}

func (t *Tx) wrote(bucket string, key []byte, err error) error {
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "write state %s %q: %w", bucket, key, err)
	}
	return nil
}

// get reads the value at the key into v, and says whether it is there.
func (t *Tx) get(bucket string, key []byte, v any) (bool, error) {
	raw := t.bucket(bucket).Get(key)
	if raw == nil {
		return false, nil
	}
	return true, decode(bucket, key, raw, v)
}

func decode(bucket string, key, raw []byte, v any) error {
	if err := json.Unmarshal(raw, v); err != nil {
		return mvm.Errorf(mvm.KindInternal, "read state %s %q: %w", bucket, key, err)
	}
	return nil
}

func (t *Tx) each(bucket, prefix string, fn func(key, raw []byte) error) error {
	c := t.bucket(bucket).Cursor()
	for k, v := c.Seek([]byte(prefix)); k != nil && len(k) >= len(prefix) && string(k[:len(prefix)]) == prefix; k, v = c.Next() {
		if err := fn(k, v); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tx) has(bucket, prefix string) bool {
	k, _ := t.bucket(bucket).Cursor().Seek([]byte(prefix))
	return len(k) >= len(prefix) && string(k[:len(prefix)]) == prefix
}

func poolKey(tenant, pool string) string { return tenant + "/" + pool }

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

func notFound(what string, args ...any) error {
	return mvm.Errorf(mvm.KindNotFound, "%s is not there", fmt.Sprintf(what, args...))
}

// Meta returns a value of the host itself, such as "node_id", and whether it is there.
func (t *Tx) Meta(name string) (string, bool, error) {
	var v string
	ok, err := t.get(bucketMeta, []byte(name), &v)
	return v, ok, err
}

// PutMeta sets a value of the host itself. The store's own names are refused.
func (t *Tx) PutMeta(name, value string) error {
	if name == "" || name == metaSchema || name == metaNextUID || name == metaUIDBase || name == metaKeyID {
		return mvm.Errorf(mvm.KindInvalid, "put meta %q: the name is the store's own", name)
	}
	return t.put(bucketMeta, []byte(name), value)
}
