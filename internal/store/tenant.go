package store

import (
	"bytes"
	"encoding/binary"

	"mvm"
)

// Tenants returns every tenant, ordered by id.
func (t *Tx) Tenants() ([]mvm.Tenant, error) { return list[mvm.Tenant](t, bucketTenants, "") }

// Tenant returns a tenant, KindNotFound when it is not there.
func (t *Tx) Tenant(id string) (mvm.Tenant, error) {
	var v mvm.Tenant
	ok, err := t.get(bucketTenants, []byte(id), &v)
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
	if v.NetID < 0 || v.NetID > mvm.MaxNetID || t.bucket(bucketNetIDs).Get(netIDKey(v.NetID)) == nil {
		return mvm.Errorf(mvm.KindInvalid, "put tenant %s: net_id %d was not reserved", v.ID, v.NetID)
	}
	others, err := t.Tenants()
	if err != nil {
		return err
	}
	for _, o := range others {
		if o.ID != v.ID && o.NetID == v.NetID {
			return mvm.Errorf(mvm.KindExists, "put tenant %s: tenant %s has net_id %d", v.ID, o.ID, v.NetID)
		}
	}
	return t.put(bucketTenants, []byte(v.ID), v)
}

// DeleteTenant forgets a tenant and its sealed secrets; its events and its net_id
// stay. KindState while it has pools. A tenant that is not there is no error.
func (t *Tx) DeleteTenant(id string) error {
	if t.has(bucketPools, id+"/") {
		return mvm.Errorf(mvm.KindState, "delete tenant %s: it has pools", id)
	}
	if err := t.DeleteSecrets(id); err != nil {
		return err
	}
	return t.delete(bucketTenants, []byte(id))
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

func netIDKey(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }

// NextNetID takes the lowest net_id that was never taken and that fits; nil: any fits.
// One that does not fit now is not taken. KindState when there is none.
func (t *Tx) NextNetID(fits func(netID int) error) (int, error) {
	var why error
	for next := range mvm.MaxNetID + 1 {
		if t.bucket(bucketNetIDs).Get(netIDKey(next)) != nil {
			continue
		}
		if fits != nil {
			if err := fits(next); err != nil {
				why = err
				continue
			}
		}
		return next, t.ReserveNetID(next)
	}
	if why != nil {
		return 0, mvm.Errorf(mvm.KindState, "take a net_id: none is left whose subnet is free: %w", why).
			WithFix("give the tenant a subnet of its own, such as --subnet 172.31.250.0/24")
	}
	return 0, mvm.Errorf(mvm.KindState, "take a net_id: all %d have been used", mvm.MaxNetID+1).
		WithFix("use another host for more tenants; net_ids are never given twice")
}

// ReserveNetID takes a net_id for good. KindExists when it was taken before, even
// by a tenant that is gone.
func (t *Tx) ReserveNetID(n int) error {
	if n < 0 || n > mvm.MaxNetID {
		return mvm.Errorf(mvm.KindInvalid, "net_id %d is not in 0..%d", n, mvm.MaxNetID)
	}
	if t.bucket(bucketNetIDs).Get(netIDKey(n)) != nil {
		return mvm.Errorf(mvm.KindExists, "net_id %d has been used, and is never given again", n).
			WithFix("choose another, or leave it out and one is chosen")
	}
	return t.put(bucketNetIDs, netIDKey(n), "taken")
}
