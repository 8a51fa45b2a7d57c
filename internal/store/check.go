package store

import (
	"errors"
	"fmt"

	"mvm"
	"mvm/internal/audit"
)

// Check reads everything and returns what does not fit together: an index without
// its entry or the other way round, something whose owner is not there. It is for
// tests and for looking into a host's trouble; its cost grows with the state.
func (t *Tx) Check() error {
	instances, err := list[instanceRecord](t, bucketInstances, "")
	if err != nil {
		return err
	}
	return errors.Join(t.checkOwners(instances), t.checkInstances(instances), t.checkSizes(instances), t.checkEvents())
}

func (t *Tx) checkOwners(instances []mvm.Instance) error {
	var errs []error
	tenants, err := t.Tenants()
	errs = append(errs, err)
	for _, v := range tenants {
		if use, err := t.netIDUse(v.NetID); err != nil || use == nil || *use != (netIDUse{Tenant: v.ID}) {
			errs = append(errs, fmt.Errorf("tenant %s: net_id %d is not its own: %+v", v.ID, v.NetID, use), err)
		}
	}
	pools, err := t.Pools("")
	errs = append(errs, err)
	for _, p := range pools {
		if _, err := t.Tenant(p.Tenant); err != nil {
			errs = append(errs, fmt.Errorf("pool %s: %w", p.Address(), err))
		}
	}
	for _, i := range instances {
		if _, err := t.Pool(i.Tenant, i.Pool); err != nil {
			errs = append(errs, fmt.Errorf("instance %s: %w", i.ID, err))
		}
	}
	return errors.Join(errs...)
}

func (t *Tx) checkInstances(instances []mvm.Instance) error {
	var errs []error
	for _, i := range instances {
		if t.bucket(bucketByPool).Get(byPoolKey(i)) == nil {
			errs = append(errs, fmt.Errorf("instance %s is not in the index by pool", i.ID))
		}
		if i.Key != "" && string(t.bucket(bucketByKey).Get(byKeyKey(i.Tenant, i.Pool, i.Key))) != i.ID {
			errs = append(errs, fmt.Errorf("instance %s is not in the index by key", i.ID))
		}
		if i.UID != 0 && string(t.bucket(bucketUIDs).Get(uidKey(i.UID))) != i.ID {
			errs = append(errs, fmt.Errorf("instance %s is not in the index by uid", i.ID))
		}
	}
	return errors.Join(errs...)
}

// checkSizes finds entries of the indexes that no instance accounts for.
func (t *Tx) checkSizes(instances []mvm.Instance) error {
	want := map[string]int{bucketByPool: len(instances)}
	for _, i := range instances {
		if i.Key != "" {
			want[bucketByKey]++
		}
		if i.UID != 0 {
			want[bucketUIDs]++
		}
	}
	var errs []error
	for _, name := range []string{bucketByPool, bucketByKey, bucketUIDs} {
		got := 0
		if err := t.each(name, "", func(_, _ []byte) error { got++; return nil }); err != nil {
			return err
		}
		if got != want[name] {
			errs = append(errs, fmt.Errorf("index %s has %d entries, and %d instances belong there", name, got, want[name]))
		}
	}
	return errors.Join(errs...)
}

func (t *Tx) checkEvents() error {
	r, err := t.VerifyEvents(audit.Mark{}, nil)
	for _, b := range r.Breaks {
		err = errors.Join(err, fmt.Errorf("audit log: %s", b.What))
	}
	return err
}
