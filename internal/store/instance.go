package store

import (
	"encoding/binary"
	"strconv"
	"strings"

	"mvm"
)

// Instances returns the instances of a pool, of a tenant (pool ""), or all (both
// ""), ordered by tenant, pool and id.
func (t *Tx) Instances(tenant, pool string) ([]mvm.Instance, error) {
	var out []mvm.Instance
	err := t.each(bucketByPool, byPoolPrefix(tenant, pool), func(key, _ []byte) error {
		v, err := t.Instance(string(key[strings.LastIndexByte(string(key), '/')+1:]))
		out = append(out, v)
		return err
	})
	return out, err
}

func byPoolPrefix(tenant, pool string) string {
	switch {
	case tenant == "":
		return ""
	case pool == "":
		return tenant + "/"
	}
	return poolKey(tenant, pool) + "/"
}

func byPoolKey(v mvm.Instance) []byte { return []byte(poolKey(v.Tenant, v.Pool) + "/" + v.ID) }

func byKeyKey(tenant, pool, key string) []byte { return []byte(poolKey(tenant, pool) + "@" + key) }

// Instance returns an instance, KindNotFound when it is not there.
func (t *Tx) Instance(id string) (mvm.Instance, error) {
	v, ok, err := read[instanceRecord](t, bucketInstances, []byte(id))
	if err == nil && !ok {
		err = notFound("instance %q", id)
	}
	return v, err
}

// InstanceByKey returns the instance that belongs to the key in the pool,
// KindNotFound when there is none.
func (t *Tx) InstanceByKey(tenant, pool, key string) (mvm.Instance, error) {
	id := t.bucket(bucketByKey).Get(byKeyKey(tenant, pool, key))
	if id == nil {
		return mvm.Instance{}, notFound("instance of key %q in pool %q", key, poolKey(tenant, pool))
	}
	return t.Instance(string(id))
}

// PutInstance adds or replaces an instance of a pool that is there. Its tenant and
// pool never change, and what is measured of it is not kept. KindExists when another
// instance has its key, or its UID.
func (t *Tx) PutInstance(v mvm.Instance) error {
	if err := mvm.ValidateInstanceID(v.ID); err != nil {
		return err
	}
	old, known, err := read[instanceRecord](t, bucketInstances, []byte(v.ID))
	if err != nil {
		return err
	}
	if known && (old.Tenant != v.Tenant || old.Pool != v.Pool) {
		return mvm.Errorf(mvm.KindInvalid, "put instance %s: it belongs to pool %s", v.ID, poolKey(old.Tenant, old.Pool))
	}
	if !known {
		if err := t.addInstance(v); err != nil {
			return err
		}
	}
	if err := t.indexKey(old, v); err != nil {
		return err
	}
	if err := t.indexUID(old, v); err != nil {
		return err
	}
	t.count(old, v)
	return t.put(bucketInstances, []byte(v.ID), recordOfInstance(v))
}

func (t *Tx) addInstance(v mvm.Instance) error {
	if _, err := t.Pool(v.Tenant, v.Pool); err != nil {
		return err
	}
	return t.putRaw(bucketByPool, byPoolKey(v), []byte{})
}

func (t *Tx) indexKey(old, v mvm.Instance) error {
	if old.Key == v.Key {
		return nil
	}
	if old.Key != "" {
		if err := t.delete(bucketByKey, byKeyKey(old.Tenant, old.Pool, old.Key)); err != nil {
			return err
		}
	}
	if v.Key == "" {
		return nil
	}
	if err := mvm.ValidateKey(v.Key); err != nil {
		return err
	}
	key := byKeyKey(v.Tenant, v.Pool, v.Key)
	if id := t.bucket(bucketByKey).Get(key); id != nil {
		return mvm.Errorf(mvm.KindExists, "put instance %s: instance %s has key %q", v.ID, id, v.Key)
	}
	return t.putRaw(bucketByKey, key, []byte(v.ID))
}

func uidKey(uid int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(uid)) }

func (t *Tx) indexUID(old, v mvm.Instance) error {
	if old.UID == v.UID {
		return nil
	}
	if old.UID != 0 {
		if err := t.delete(bucketUIDs, uidKey(old.UID)); err != nil {
			return err
		}
	}
	if v.UID == 0 {
		return nil
	}
	if id := t.bucket(bucketUIDs).Get(uidKey(v.UID)); id != nil {
		return mvm.Errorf(mvm.KindExists, "put instance %s: instance %s has uid %d", v.ID, id, v.UID)
	}
	return t.putRaw(bucketUIDs, uidKey(v.UID), []byte(v.ID))
}

// DeleteInstance forgets an instance. One that is not there is no error.
func (t *Tx) DeleteInstance(id string) error {
	v, known, err := read[instanceRecord](t, bucketInstances, []byte(id))
	if err != nil || !known {
		return err
	}
	if err := t.indexKey(v, mvm.Instance{}); err != nil {
		return err
	}
	if err := t.indexUID(v, mvm.Instance{}); err != nil {
		return err
	}
	if err := t.delete(bucketByPool, byPoolKey(v)); err != nil {
		return err
	}
	t.count(v, mvm.Instance{})
	if err := t.delete(bucketTransitions, []byte(id)); err != nil {
		return err
	}
	return t.delete(bucketInstances, []byte(id))
}

// AllocUID returns a user that no instance has, and that no call before gave, until
// the range has been gone through. KindState when instances have all of it.
func (t *Tx) AllocUID() (int, error) {
	base, _, err := t.uidBase()
	if err != nil {
		return 0, err
	}
	count, next := t.s.opts.UIDCount, 0
	if text, ok, err := t.Meta(metaNextUID); err != nil {
		return 0, err
	} else if ok {
		if next, err = strconv.Atoi(text); err != nil {
			return 0, mvm.Errorf(mvm.KindInternal, "read state meta %s: %w", metaNextUID, err)
		}
	}
	for i := range count {
		n := (next + i) % count
		if t.bucket(bucketUIDs).Get(uidKey(base+n)) == nil {
			return base + n, t.put(bucketMeta, []byte(metaNextUID), strconv.Itoa((n+1)%count))
		}
	}
	return 0, mvm.Errorf(mvm.KindState, "choose a uid: instances use all %d", count)
}

// UIDBase returns the first user of those that AllocUID gives, and whether that was set,
// or users were given of it.
func (s *Store) UIDBase() (base int, used bool, err error) {
	err = s.View(func(tx *Tx) error {
		base, used, err = tx.uidBase()
		return err
	})
	return base, used, err
}

// SetUIDBase has AllocUID give users from this one on. Instances keep theirs.
func (s *Store) SetUIDBase(base int) error {
	if now, used, err := s.UIDBase(); err != nil || used && now == base {
		return err
	}
	return s.Update(func(tx *Tx) error { return tx.put(bucketMeta, []byte(metaUIDBase), strconv.Itoa(base)) })
}

func (t *Tx) uidBase() (base int, used bool, err error) {
	text, ok, err := t.Meta(metaUIDBase)
	if err != nil {
		return 0, false, err
	}
	if !ok {
		_, used, err = t.Meta(metaNextUID)
		return t.s.opts.UIDBase, used, err
	}
	if base, err = strconv.Atoi(text); err != nil {
		err = mvm.Errorf(mvm.KindInternal, "read state meta %s: %w", metaUIDBase, err)
	}
	return base, true, err
}

// FreeOffset returns the lowest offset in the tenant's subnet that no instance of
// it has. KindQuota when the subnet is full.
func (t *Tx) FreeOffset(tenant string) (int, error) {
	owner, err := t.Tenant(tenant)
	if err != nil {
		return 0, err
	}
	instances, err := t.Instances(tenant, "")
	if err != nil {
		return 0, err
	}
	taken := map[int]bool{}
	for _, i := range instances {
		taken[i.Offset] = true
	}
	for n := mvm.FirstInstanceOffset; ; n++ {
		if _, ok := mvm.SubnetAddr(owner.Subnet, n); !ok {
			return 0, mvm.Errorf(mvm.KindQuota, "choose an address for tenant %s: its subnet %s is full", tenant, owner.Subnet)
		}
		if !taken[n] {
			return n, nil
		}
	}
}
