package snapshot

import (
	"errors"

	"mvm"
	"mvm/internal/sys"
)

// Spent keeps of a snapshot whose guest runs what the next sleep can use, and removes the
// rest. It can run twice.
func (f Files) Spent(id string) error {
	defer f.Shared.busy.Lock(f.Instance)()
	return sys.IfThere(f.in("remove used snapshot", func(d *sys.Folder) error {
		keepMap := func(own *sys.Folder) error {
			all, err := d.MakeSub(previousDir)
			if err != nil {
				return err
			}
			defer all.Close()
			if _, err := keep(all, func(name string) bool { return name == id }); err != nil {
				return err
			}
			to, err := all.MakeSub(id)
			if err != nil {
				return err
			}
			defer to.Close()
			return own.Rename(mapFile, to, mapFile) // not synced: what is lost is written again
		}
		err := sys.IfThere(inSnapshot(d, id, func(own *sys.Folder) error {
			if _, _, err := own.Size(mapFile); err != nil {
				return err
			}
			return keepMap(own)
		}))
		return errors.Join(err, removeOwn(d, id))
	}))
}

// Settled removes what a guest that sleeps leaves behind: memory in the clear, of an older
// version, and what only the snapshot before needed.
func (f Files) Settled(ref mvm.SnapshotRef) error {
	if !ref.Sealed {
		return nil
	}
	return f.sweeping("remove what the snapshot before had", func(d *sys.Folder) error {
		return errors.Join(d.RemoveAll(memoryFile), d.RemoveAll(previousDir))
	})
}

// Remove removes the snapshot. The memory of an older version stays: a VMM may go on from it.
func (f Files) Remove(id string) error {
	return f.sweeping("remove snapshot", func(d *sys.Folder) error { return removeOwn(d, id) })
}

func removeOwn(d *sys.Folder, id string) error {
	return sys.IfThere(d.InSub(snapshotsDir, func(all *sys.Folder) error { return all.RemoveAll(id) }))
}

// KeepOnly removes what sleeps that were cut off before their commit have written: every
// snapshot but one, "" for none.
func (f Files) KeepOnly(id string) error {
	_, err := f.keepIn("sweep snapshots", snapshotsDir, func(name string) bool { return name == id })
	return err
}

// KeepOwn removes what is among the instance's snapshots and not on its record.
func (f Files) KeepOwn(i mvm.Instance) error {
	own := ""
	if i.Snapshot != nil {
		own = i.Snapshot.ID
	}
	return f.KeepOnly(own)
}

// keepIn removes from a folder of snapshots what is not to be kept, and says what. Only then
// there is something to sweep.
func (f Files) keepIn(verb, folder string, kept func(name string) bool) (removed []string, err error) {
	err = f.in(verb, func(d *sys.Folder) error {
		return d.InSub(folder, func(all *sys.Folder) (err error) {
			removed, err = keep(all, kept)
			return err
		})
	})
	if len(removed) > 0 {
		err = errors.Join(err, f.sweeping(verb, func(*sys.Folder) error { return nil }))
	}
	return removed, sys.IfThere(err)
}

// keep removes what is in the folder and not to be kept, and says what.
func keep(d *sys.Folder, kept func(name string) bool) (removed []string, err error) {
	names, err := d.Names()
	for _, name := range names {
		if !kept(name) {
			removed = append(removed, name)
			err = errors.Join(err, d.RemoveAll(name))
		}
	}
	return removed, err
}

// DropMemory removes the guest's memory, for a boot that makes another.
func (f Files) DropMemory() error {
	return f.sweeping("remove old memory", func(d *sys.Folder) error {
		return errors.Join(d.RemoveAll(memoryFile), d.RemoveAll(previousDir))
	})
}

// Discard removes the guest's memory and every snapshot that was not set aside.
func (f Files) Discard() error {
	return f.sweeping("discard memory", func(d *sys.Folder) error {
		return errors.Join(d.RemoveAll(memoryFile), d.RemoveAll(snapshotsDir), d.RemoveAll(previousDir))
	})
}

// sweeping removes something, and then the segments that nothing needs any more.
func (f Files) sweeping(verb string, remove func(*sys.Folder) error) error {
	defer f.Shared.busy.Lock(f.Instance)()
	return sys.IfThere(f.in(verb, func(d *sys.Folder) error {
		return errors.Join(remove(d), f.sweep(d))
	}))
}

// sweep removes segments that no map names. While there is a map that can't be read, it
// removes none: that one may name them.
func (f Files) sweep(d *sys.Folder) error {
	all, err := d.Sub(segmentsDir)
	if err != nil {
		return sys.IfThere(err)
	}
	defer all.Close()
	names, err := all.Names()
	if err != nil || len(names) == 0 {
		return err
	}
	return f.Shared.Segments.Sweep(all, func(fn func(Sealed) error) error {
		for _, folder := range []string{snapshotsDir, setAsideDir, previousDir} {
			if err := f.eachSealed(d, all, folder, fn); err != nil {
				return err
			}
		}
		return nil
	})
}

// eachSealed calls fn with each snapshot in a folder.
func (f Files) eachSealed(d, segments *sys.Folder, folder string, fn func(Sealed) error) error {
	return eachSub(d, folder, func(id string, own *sys.Folder) error {
		key, err := f.Shared.Key(f.Tenant)
		if err != nil {
			return err
		}
		return fn(Sealed{f.bound(id), own, segments, key})
	})
}

// Rewrap has all that is sealed of the instance opened by the tenant's key of now alone, and not
// by the one before. What is damaged stays as it is. It can run again after it was cut off.
func (f Files) Rewrap() error {
	defer f.Shared.busy.Lock(f.Instance)()
	return sys.IfThere(f.in("wrap the keys of snapshots", func(d *sys.Folder) error {
		return sys.IfThere(d.InSub(segmentsDir, func(segments *sys.Folder) error {
			var errs []error
			for _, folder := range []string{snapshotsDir, setAsideDir, previousDir} {
				errs = append(errs, f.eachSealed(d, segments, folder, f.Shared.Segments.Rewrap))
			}
			return errors.Join(errs...)
		}))
	}))
}

// eachSub calls fn with each folder in a folder, which may not be there.
func eachSub(d *sys.Folder, folder string, fn func(name string, sub *sys.Folder) error) error {
	return sys.IfThere(d.InSub(folder, func(all *sys.Folder) error {
		names, err := all.Names()
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := all.InSub(name, func(sub *sys.Folder) error { return fn(name, sub) }); err != nil {
				return err
			}
		}
		return nil
	}))
}
