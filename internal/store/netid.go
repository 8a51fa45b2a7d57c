package store

import (
	"encoding/binary"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"mvm"
)

// NetIDQuarantine is how long the net_id of a destroyed tenant is kept from other tenants.
// Its addresses are in logs, in caches and in rules of others meanwhile. The same tenant,
// by its name, may have it back at once.
const NetIDQuarantine = 24 * time.Hour

// netIDUse is who has a net_id, or had it last.
type netIDUse struct {
	Tenant   string    `json:"tenant,omitempty"`
	Released time.Time `json:"released,omitzero"` // zero: the tenant has it
}

// free reports that the tenant may take the net_id.
func (u netIDUse) free(tenant string, now time.Time) bool {
	return !u.Released.IsZero() && (u.Tenant == tenant || !now.Before(u.Released.Add(NetIDQuarantine)))
}

func netIDKey(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }

// netIDUse returns nil for a net_id that nobody ever had.
func (t *Tx) netIDUse(n int) (*netIDUse, error) {
	if n < 0 || n > mvm.MaxNetID {
		return nil, mvm.Errorf(mvm.KindInvalid, "net_id %d is not in 0..%d", n, mvm.MaxNetID)
	}
	var u netIDUse
	ok, err := t.get(bucketNetIDs, netIDKey(n), &u)
	if err != nil || !ok {
		return nil, err
	}
	return &u, nil
}

// NextNetID takes a net_id for the tenant that fits; nil: any fits. It is the lowest that
// nobody ever had; where there is none, the one that was given up first, after its
// quarantine. One that does not fit now is not taken. KindState when there is none.
func (t *Tx) NextNetID(tenant string, now time.Time, fits func(netID int) error) (int, error) {
	var why error
	again, since := -1, time.Time{}
	for next := range mvm.MaxNetID + 1 {
		use, err := t.netIDUse(next)
		if err != nil {
			return 0, err
		}
		if use != nil && (!use.free(tenant, now) || again >= 0 && !use.Released.Before(since)) {
			continue
		}
		if fits != nil {
			if err := fits(next); err != nil {
				why = err
				continue
			}
		}
		if use == nil {
			return next, t.takeNetID(tenant, next)
		}
		again, since = next, use.Released
	}
	if again >= 0 {
		return again, t.takeNetID(tenant, again)
	}
	if why != nil {
		return 0, mvm.Errorf(mvm.KindState, "choose a net_id: none with a free subnet is left: %w", why).
			WithFix("give the tenant its own subnet, such as --subnet 172.31.250.0/24")
	}
	return 0, mvm.Errorf(mvm.KindState, "choose a net_id: all %d are in use or were in use less than %s ago", mvm.MaxNetID+1, quarantine()).
		WithFix("destroy unused tenants, or use another host")
}

// ReserveNetID takes this net_id for the tenant. KindExists when another tenant has it, or
// had it until less than NetIDQuarantine ago.
func (t *Tx) ReserveNetID(tenant string, n int, now time.Time) error {
	use, err := t.netIDUse(n)
	switch {
	case err != nil:
		return err
	case use == nil || use.free(tenant, now):
		return t.takeNetID(tenant, n)
	case use.Released.IsZero():
		return mvm.Errorf(mvm.KindExists, "net_id %d belongs to tenant %s", n, use.Tenant).
			WithFix("choose another, or leave it out: mvm then chooses one")
	}
	return mvm.Errorf(mvm.KindExists, "net_id %d belonged to tenant %s, and stays reserved until %s", n, use.Tenant,
		use.Released.Add(NetIDQuarantine).UTC().Format(time.RFC3339)).
		WithFix("choose another, or leave it out: mvm then chooses one")
}

func (t *Tx) takeNetID(tenant string, n int) error {
	return t.put(bucketNetIDs, netIDKey(n), netIDUse{Tenant: tenant})
}

func quarantine() string { return fmt.Sprintf("%d h", NetIDQuarantine/time.Hour) }

// nameNetIDs is version 4: a net_id says whose it is. One of a tenant that is gone counts
// as given up now.
func nameNetIDs(s *Store, tx *bbolt.Tx) error {
	t := &Tx{b: tx, s: s}
	tenants, err := t.Tenants()
	if err != nil {
		return err
	}
	has := map[int]string{}
	for _, v := range tenants {
		has[v.NetID] = v.ID
	}
	for n := range mvm.MaxNetID + 1 {
		if t.bucket(bucketNetIDs).Get(netIDKey(n)) == nil {
			continue
		}
		use := netIDUse{Tenant: has[n]}
		if use.Tenant == "" {
			use.Released = time.Now()
		}
		if err := t.put(bucketNetIDs, netIDKey(n), use); err != nil {
			return err
		}
	}
	return nil
}
