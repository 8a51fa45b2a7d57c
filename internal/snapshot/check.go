package snapshot

import (
	"context"
	"errors"
	"path/filepath"
	"slices"

	"mvm"
	"mvm/internal/sys"
)

// Fault is something in an instance's folder that does not fit the instance's record.
type Fault struct {
	Where string // below the instance's folder
	What  string
	// Extra: it is there and nothing needs it. Tidy removes it.
	Extra bool
	// Lost: the record's own snapshot, or one that was set aside, can't be restored.
	Lost bool
}

// Check compares the snapshots that are there with the record of the instance, and sees
// whether all that they need is there. It changes nothing. No operation of the instance may be under way.
func (f Files) Check(i mvm.Instance) (faults []Fault, err error) {
	defer f.Shared.busy.Lock(f.Instance)()
	err = f.in("check snapshots", func(d *sys.Folder) error {
		c := checker{f: f, d: d, needed: map[string]bool{}}
		err := c.check(i)
		faults = c.faults
		return err
	})
	return faults, err
}

// checker is one run of Check.
type checker struct {
	f       Files
	d       *sys.Folder
	needed  map[string]bool // segments
	unknown bool            // some snapshot does not tell what it needs
	faults  []Fault
}

func (c *checker) check(i mvm.Instance) error {
	own := map[string]bool{}
	if i.Snapshot != nil {
		own[i.Snapshot.ID] = i.Snapshot.Sealed
	}
	aside := map[string]bool{}
	for _, s := range i.SetAside {
		aside[s.Snapshot.ID] = s.Snapshot.Sealed
	}
	return errors.Join(c.folder(snapshotsDir, own), c.folder(setAsideDir, aside), c.previous(), c.segments())
}

// folder compares the snapshots in it with those on record, of which it is known whether they
// are sealed.
func (c *checker) folder(name string, onRecord map[string]bool) error {
	there := map[string]bool{}
	err := eachSub(c.d, name, func(id string, own *sys.Folder) error {
		there[id] = true
		sealed, known := onRecord[id]
		if !known {
			c.faults = append(c.faults, Fault{Where: filepath.Join(name, id), What: "no record names this snapshot", Extra: true})
			return nil
		}
		if sealed {
			return c.sealed(filepath.Join(name, id), id, own)
		}
		if _, _, err := own.Size(stateFile); err != nil {
			c.lost(filepath.Join(name, id), err)
		}
		return nil
	})
	for id, sealed := range onRecord {
		if !there[id] {
			c.unknown = c.unknown || sealed
			c.faults = append(c.faults, Fault{Where: filepath.Join(name, id), What: "the snapshot is on record and not there", Lost: true})
		}
	}
	return err
}

func (c *checker) lost(where string, err error) {
	c.faults = append(c.faults, Fault{Where: where, What: err.Error(), Lost: true})
}

// sealed sees whether a sealed snapshot has what it needs.
func (c *checker) sealed(where, id string, own *sys.Folder) error {
	names, err := c.needs(id, own)
	if err == nil {
		_, _, err = own.Size(deviceFile)
	}
	c.need(names, err)
	if err != nil {
		c.lost(where, err)
	}
	return nil
}

// need notes what a snapshot needs, if that could be found out.
func (c *checker) need(names []string, err error) {
	c.unknown = c.unknown || err != nil && len(names) == 0
	for _, n := range names {
		c.needed[n] = true
	}
}

func (c *checker) needs(id string, own *sys.Folder) (names []string, err error) {
	key, err := c.f.Shared.Key(c.f.Tenant)
	if err != nil {
		return nil, err
	}
	segments, err := c.d.Sub(segmentsDir)
	if err != nil {
		return nil, err
	}
	defer segments.Close()
	return c.f.Shared.Segments.Needs(Sealed{c.f.bound(id), own, segments, key})
}

// previous notes what the map of the snapshot needs that the guest was restored from. Nothing
// depends on it.
func (c *checker) previous() error {
	return eachSub(c.d, previousDir, func(id string, own *sys.Folder) error {
		c.need(c.needs(id, own))
		return nil
	})
}

// segments finds those that nothing needs.
func (c *checker) segments() error {
	return sys.IfThere(c.d.InSub(segmentsDir, func(all *sys.Folder) error {
		names, err := all.Names()
		slices.Sort(names)
		for _, name := range names {
			if !c.unknown && !c.needed[name] {
				c.faults = append(c.faults, Fault{Where: filepath.Join(segmentsDir, name), What: "no snapshot needs this segment", Extra: true})
			}
		}
		return err
	}))
}

// Lacks says what of the instance's snapshot is not there or not whole, so far as that is seen
// without reading the guest's memory: its map, and that its segments are there and as long as
// the map says. It changes nothing. The files of a guest that wakes meanwhile may go.
func (f Files) Lacks(i mvm.Instance) error {
	if i.Snapshot == nil || !i.Snapshot.Sealed {
		return nil
	}
	return f.in("look at the snapshot", func(d *sys.Folder) error {
		return inSnapshot(d, i.Snapshot.ID, func(own *sys.Folder) error {
			c := checker{f: f, d: d}
			_, err := c.needs(i.Snapshot.ID, own)
			return err
		})
	})
}

// Tidy removes what Check calls extra. No operation of the instance may be under way.
func (f Files) Tidy(i mvm.Instance) error {
	_, err := f.KeepAside(i)
	return errors.Join(err, f.KeepOwn(i), f.sweeping("remove segments that nothing needs", func(*sys.Folder) error { return nil }))
}

// ReadAll reads the snapshots of the record, and verifies all that is sealed of them. The
// files of a guest that wakes meanwhile may go.
func (f Files) ReadAll(ctx context.Context, i mvm.Instance) (faults []Fault, err error) {
	read := func(d, segments *sys.Folder, folder string, ref mvm.SnapshotRef) error {
		if !ref.Sealed {
			return nil
		}
		key, err := f.Shared.Key(f.Tenant)
		if err != nil {
			return err
		}
		err = d.InSub(folder, func(all *sys.Folder) error {
			return all.InSub(ref.ID, func(own *sys.Folder) error {
				return f.Shared.Segments.Read(ctx, Sealed{f.bound(ref.ID), own, segments, key})
			})
		})
		if err != nil && ctx.Err() == nil {
			faults = append(faults, Fault{Where: filepath.Join(folder, ref.ID), What: err.Error(), Lost: true})
		}
		return context.Cause(ctx)
	}
	err = f.in("read snapshots", func(d *sys.Folder) error {
		return sys.IfThere(d.InSub(segmentsDir, func(segments *sys.Folder) error {
			if i.Snapshot != nil {
				if err := read(d, segments, snapshotsDir, *i.Snapshot); err != nil {
					return err
				}
			}
			for _, s := range i.SetAside {
				if err := read(d, segments, setAsideDir, s.Snapshot); err != nil {
					return err
				}
			}
			return nil
		}))
	})
	return faults, err
}
