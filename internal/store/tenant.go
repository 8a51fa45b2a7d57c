package store

import (
	"bytes"
	"errors"
	"time"

	"mvm"
)

// Tenants returns every tenant, ordered by id.
func (t *Tx) Tenants() ([]mvm.Tenant, error) { return list[tenantRecord](t, bucketTenants, "") }

// Tenant returns a tenant, KindNotFound when it is not there.
func (t *Tx) Tenant(id string) (mvm.Tenant, error) {
	v, ok, err := read[tenantRecord](t, bucketTenants, []byte(id))
	if err == nil && !ok {
		err = notFound("tenant %q", id)
	}
	return v, err
}

// PutTenant adds or replaces a tenant. Its net_id must have been taken with
// NextNetID or ReserveNetID, and no other tenant may have it.
func (t *Tx) PutTenant(v mvm.Tenant) error {
	if err := mvm.ValidateName("tenant", v.ID); err != nil {
		return err
	}
	use, err := t.netIDUse(v.NetID)
	switch {
	case err != nil:
		return err
	case use == nil || !use.Released.IsZero():
		return mvm.Errorf(mvm.KindInvalid, "put tenant %s: net_id %d was not reserved", v.ID, v.NetID)
	case use.Tenant != v.ID:
		return mvm.Errorf(mvm.KindExists, "put tenant %s: tenant %s has net_id %d", v.ID, use.Tenant, v.NetID)
	}
	return t.put(bucketTenants, []byte(v.ID), recordOfTenant(v))
}

// DeleteTenant forgets a tenant, its sealed secrets and its key; its events stay, and its net_id
// is free for others after NetIDQuarantine. KindState while it has pools. A tenant that is
// not there is no error.
func (t *Tx) DeleteTenant(id string) error {
	if t.has(bucketPools, id+"/") {
		return mvm.Errorf(mvm.KindState, "delete tenant %s: it has pools", id)
	}
	v, err := t.Tenant(id)
	if mvm.IsKind(err, mvm.KindNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	if err := errors.Join(t.DeleteSecrets(id), t.deleteTenantKey(id)); err != nil {
		return err
	}
	if err := t.put(bucketNetIDs, netIDKey(v.NetID), netIDUse{Tenant: id, Released: time.Now()}); err != nil {
		return err
	}
	return t.delete(bucketTenants, []byte(id))
}

// TenantKey returns the tenant's sealed key, nil when it has none yet, and the former one, nil
// when nothing on the disk needs that any more.
func (t *Tx) TenantKey(tenant string) (sealed, former []byte) {
	b := t.bucket(bucketKeys)
	return bytes.Clone(b.Get([]byte(tenant))), bytes.Clone(b.Get(formerKey(tenant)))
}

// formerKey is where the former key of a tenant is: no tenant has this name.
func formerKey(tenant string) []byte { return []byte(tenant + "/former") }

// PutTenantKey replaces the sealed key of a tenant that is there, and the former one.
func (t *Tx) PutTenantKey(tenant string, sealed, former []byte) error {
	if _, err := t.Tenant(tenant); err != nil {
		return err
	}
	err := t.putRaw(bucketKeys, []byte(tenant), sealed)
	if former == nil {
		return errors.Join(err, t.delete(bucketKeys, formerKey(tenant)))
	}
	return errors.Join(err, t.putRaw(bucketKeys, formerKey(tenant), former))
}

// deleteTenantKey forgets the tenant's keys.
func (t *Tx) deleteTenantKey(tenant string) error {
	return errors.Join(t.delete(bucketKeys, []byte(tenant)), t.delete(bucketKeys, formerKey(tenant)))
}

// Secrets returns the tenant's sealed secrets, nil when it has none.
func (t *Tx) Secrets(tenant string) []byte {
	return bytes.Clone(t.bucket(bucketSecrets).Get([]byte(tenant)))
}

// PutSecrets replaces the sealed secrets of a tenant that is there.
func (t *Tx) PutSecrets(tenant string, sealed []byte) error {
	if _, err := t.Tenant(tenant); err != nil {
		return err
	}
	return t.putRaw(bucketSecrets, []byte(tenant), sealed)
}

// DeleteSecrets forgets the tenant's sealed secrets; none is no error.
func (t *Tx) DeleteSecrets(tenant string) error { return t.delete(bucketSecrets, []byte(tenant)) }
