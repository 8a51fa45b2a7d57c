package store

import "mvm"

// Pools returns the tenant's pools ordered by id; with an empty tenant those of
// every tenant, ordered by tenant.
func (t *Tx) Pools(tenant string) ([]mvm.Pool, error) {
	if tenant == "" {
		return list[poolRecord](t, bucketPools, "")
	}
	return list[poolRecord](t, bucketPools, tenant+"/")
}

// Pool returns a pool, KindNotFound when it is not there.
func (t *Tx) Pool(tenant, pool string) (mvm.Pool, error) {
	v, ok, err := read[poolRecord](t, bucketPools, []byte(poolKey(tenant, pool)))
	if err == nil && !ok {
		err = notFound("pool %q", poolKey(tenant, pool))
	}
	return v, err
}

// PutPool adds or replaces a pool of a tenant that is there.
func (t *Tx) PutPool(v mvm.Pool) error {
	if err := mvm.ValidateName("pool", v.Spec.ID); err != nil {
		return err
	}
	if _, err := t.Tenant(v.Tenant); err != nil {
		return err
	}
	return t.put(bucketPools, []byte(poolKey(v.Tenant, v.Spec.ID)), recordOfPool(v))
}

// DeletePool forgets a pool. KindState while it has instances. A pool that is not
// there is no error.
func (t *Tx) DeletePool(tenant, pool string) error {
	if t.has(bucketByPool, poolKey(tenant, pool)+"/") {
		return mvm.Errorf(mvm.KindState, "delete pool %s: it has instances", poolKey(tenant, pool))
	}
	return t.delete(bucketPools, []byte(poolKey(tenant, pool)))
}
