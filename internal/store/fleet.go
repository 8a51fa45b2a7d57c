package store

import (
	"maps"

	"mvm"
)

// fleetKey is what instances are counted by.
type fleetKey struct {
	tenant, pool string
	state        mvm.State
}

type fleetSum struct {
	instances int
	bytes     int64
}

// fleet counts instances. It is kept from one commit to the next, so that asking for
// it does not read the instances.
type fleet map[fleetKey]fleetSum

// add counts the instance n times; one without an id is none.
func (f fleet) add(i mvm.Instance, n int) {
	if i.ID == "" {
		return
	}
	k := fleetKey{i.Tenant, i.Pool, i.State}
	s := f[k]
	s.instances += n
	if i.Snapshot != nil {
		s.bytes += int64(n) * i.Snapshot.Bytes
	}
	f[k] = s
}

// merge adds what other counts; what comes to nothing is gone.
func (f fleet) merge(other fleet) {
	for k, d := range other {
		s := f[k]
		s.instances += d.instances
		s.bytes += d.bytes
		f[k] = s
	}
	maps.DeleteFunc(f, func(_ fleetKey, s fleetSum) bool { return s == fleetSum{} })
}

// count notes within the transaction that an instance was old and is now v.
func (t *Tx) count(old, v mvm.Instance) {
	if t.fleet == nil {
		t.fleet = fleet{}
	}
	t.fleet.add(old, -1)
	t.fleet.add(v, 1)
}

// Fleet counts the instances by tenant, pool and state, in no order, as of the last
// commit. Its cost does not grow with the number of instances.
func (s *Store) Fleet() []mvm.FleetCount {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]mvm.FleetCount, 0, len(s.fleet))
	for k, n := range s.fleet {
		if n.instances > 0 { // of two commits at once the later may be counted first
			out = append(out, mvm.FleetCount{Tenant: k.tenant, Pool: k.pool, State: k.state, Instances: n.instances, SnapshotBytes: n.bytes})
		}
	}
	return out
}

// countFleet counts what the file has when it is opened.
func (s *Store) countFleet() error {
	s.fleet = fleet{}
	return s.View(func(tx *Tx) error {
		return tx.each(bucketInstances, "", func(key, raw []byte) error {
			i, err := decodeAs[instanceRecord](bucketInstances, key, raw)
			if err != nil {
				return err
			}
			s.fleet.add(i, 1)
			return nil
		})
	})
}
