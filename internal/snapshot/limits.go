package snapshot

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"mvm"
)

// Limits bound the snapshots that are kept though they could not be used.
type Limits struct {
	Keep        time.Duration // default 7 days; negative: none is kept
	PerInstance int           // the newest ones of an instance, default 2
	Bytes       int64         // of all instances together, default 20 GiB
}

// WithDefaults are the limits with the defaults where none is given.
func (l Limits) WithDefaults() Limits {
	if l.Keep == 0 {
		l.Keep = 7 * 24 * time.Hour
	}
	if l.PerInstance == 0 {
		l.PerInstance = 2
	}
	if l.Bytes == 0 {
		l.Bytes = 20 << 30
	}
	return l
}

// Excess is a snapshot that is set aside no longer.
type Excess struct {
	Instance, ID, Why string
	Bytes             int64
}

// aside is a snapshot that was set aside, and whose it is.
type aside struct {
	mvm.SetAside
	tenant, instance string
}

// Beyond returns what is above the limits: what is too old, then what an instance has too
// many of, then the oldest of the tenant that holds the most, until all fit.
func Beyond(all []mvm.Instance, l Limits, now time.Time) (out []Excess) {
	var kept []aside
	sum, held := int64(0), map[string]int64{}
	drop := func(instance string, s mvm.SetAside, why string) {
		out = append(out, Excess{instance, s.Snapshot.ID, why, s.Snapshot.Bytes})
	}
	for _, i := range all {
		for n, s := range i.SetAside {
			switch {
			case now.Sub(s.At) >= l.Keep:
				drop(i.ID, s, fmt.Sprintf("kept for %s", max(l.Keep, 0)))
			case len(i.SetAside)-n > l.PerInstance:
				drop(i.ID, s, fmt.Sprintf("an instance keeps %d", l.PerInstance))
			default:
				kept = append(kept, aside{s, i.Tenant, i.ID})
				sum, held[i.Tenant] = sum+s.Snapshot.Bytes, held[i.Tenant]+s.Snapshot.Bytes
			}
		}
	}
	slices.SortStableFunc(kept, func(x, y aside) int { return x.At.Compare(y.At) })
	for sum > l.Bytes && len(kept) > 0 {
		most := slices.MaxFunc(kept, func(x, y aside) int { return cmp.Compare(held[x.tenant], held[y.tenant]) }).tenant
		n := slices.IndexFunc(kept, func(s aside) bool { return s.tenant == most })
		s := kept[n]
		drop(s.instance, s.SetAside, fmt.Sprintf("snapshots that are set aside may hold %d MiB", l.Bytes>>20))
		sum, held[most] = sum-s.Snapshot.Bytes, held[most]-s.Snapshot.Bytes
		kept = slices.Delete(kept, n, n+1)
	}
	return out
}

// FindAside is the snapshot of the instance that was set aside, by its id.
func FindAside(i mvm.Instance, id string) (mvm.SetAside, error) {
	n := slices.IndexFunc(i.SetAside, func(s mvm.SetAside) bool { return s.Snapshot.ID == id })
	if n < 0 {
		return mvm.SetAside{}, mvm.Errorf(mvm.KindNotFound, "snapshot %s of %s does not exist", id, i.Address()).
			WithFix("see `mvm instance snapshots list %s`", i.ID)
	}
	return i.SetAside[n], nil
}

// DropAside takes the snapshot off the record.
func DropAside(i *mvm.Instance, id string) {
	i.SetAside = slices.DeleteFunc(slices.Clone(i.SetAside), func(s mvm.SetAside) bool { return s.Snapshot.ID == id })
}
