package snapshot

import (
	"errors"

	"mvm"
	"mvm/internal/sys"
)

// SetAside moves a snapshot's map and device state to a folder of their own, and of an older
// version's the memory too. It can run twice: what it has moved before stays.
func (f Files) SetAside(id string) error {
	defer f.Shared.busy.Lock(f.Instance)()
	return f.in("set snapshot aside", func(d *sys.Folder) error {
		err := inMade(d, setAsideDir, id, func(aside *sys.Folder) error {
			err := inSnapshot(d, id, func(own *sys.Folder) error { return moveParts(own, aside) })
			return errors.Join(sys.IfThere(err), sys.IfThere(moveFile(d, aside, memoryFile, f.UID)))
		})
		if err != nil {
			return err
		}
		return removeOwn(d, id)
	})
}

// BringBack is the reverse of SetAside. All parts have to be there.
func (f Files) BringBack(id string) error {
	defer f.Shared.busy.Lock(f.Instance)()
	err := f.in("bring snapshot back", func(d *sys.Folder) error {
		return d.InSub(setAsideDir, func(all *sys.Folder) error {
			err := all.InSub(id, func(aside *sys.Folder) error {
				if err := f.whole(aside); err != nil {
					return err
				}
				return inMade(d, snapshotsDir, id, func(own *sys.Folder) error {
					return errors.Join(moveParts(aside, own), sys.IfThere(moveFile(aside, d, memoryFile, f.UID)))
				})
			})
			if err != nil {
				return err
			}
			return all.RemoveAll(id)
		})
	})
	if err != nil && sys.IfThere(err) == nil {
		return mvm.Errorf(mvm.KindState, "bring back snapshot %s of %s: a part of it is lost: %w", id, f.Instance, err)
	}
	return err
}

// whole says what a snapshot that was set aside lacks.
func (f Files) whole(aside *sys.Folder) error {
	_, _, noMap := aside.Size(mapFile)
	_, _, noDevice := aside.Size(deviceFile)
	if noMap == nil || noDevice == nil {
		return errors.Join(noMap, noDevice)
	}
	_, _, noState := aside.Size(stateFile)
	_, _, noMemory := aside.Size(memoryFile, f.UID)
	_, _, noWhole := aside.Size(wholeFile)
	if noWhole == nil {
		noMemory = nil // it is to take the memory's place
	}
	return errors.Join(noState, noMemory)
}

// Unbring moves aside what a restore that was cut off has moved back.
func (f Files) Unbring(i mvm.Instance) error {
	if i.Op == nil || i.Op.Kind != mvm.OpRestore || i.Op.Snapshot == "" || i.Snapshot != nil {
		return nil
	}
	return f.SetAside(i.Op.Snapshot)
}

// moveParts moves what a snapshot has in its own folder.
func moveParts(from, to *sys.Folder) error {
	for _, name := range partNames() {
		if err := sys.IfThere(moveFile(from, to, name)); err != nil {
			return err
		}
	}
	return nil
}

// moveFile moves a file that is mvm's.
func moveFile(from, to *sys.Folder, name string, owners ...int) error {
	if _, _, err := from.Size(name, owners...); err != nil {
		return err
	}
	return from.Rename(name, to, name)
}

// RemoveAside removes the files of a snapshot that is set aside no longer.
func (f Files) RemoveAside(id string) error {
	return f.sweeping("remove snapshot", func(d *sys.Folder) error {
		return sys.IfThere(d.InSub(setAsideDir, func(all *sys.Folder) error { return all.RemoveAll(id) }))
	})
}

// KeepAside removes what lies among the snapshots that were set aside and is none that the
// instance knows of, and says what. The instance's own may be on its way there.
func (f Files) KeepAside(i mvm.Instance) (removed []string, err error) {
	return f.keepIn("sweep what was set aside", setAsideDir, i.HasSnapshot)
}

// AsideBytes is what snapshots that were set aside take in the instance's folder.
func AsideBytes(d *sys.Folder) (sum int64) {
	_ = d.InSub(setAsideDir, func(aside *sys.Folder) error { // none, or none of mvm's, takes nothing
		sum = aside.Bytes()
		return nil
	})
	return sum
}
