package snapshot

import (
	"errors"

	"mvm"
	"mvm/internal/sys"
)

// SetAside moves a snapshot's memory, device state and what is beside that to a folder of
// their own. It can run twice: what it has moved before stays.
func (f Files) SetAside(id string) error {
	err := f.in("set snapshot aside", func(d *sys.Folder) error {
		return inMade(d, setAsideDir, id, func(aside *sys.Folder) error {
			err := inSnapshot(d, id, func(own *sys.Folder) error { return moveParts(own, aside) })
			return errors.Join(sys.IfThere(err), sys.IfThere(moveFile(d, aside, memoryFile, f.UID)))
		})
	})
	if err != nil {
		return err
	}
	return f.Remove(id)
}

// BringBack is the reverse of SetAside. State and memory have to be there.
func (f Files) BringBack(id string) error {
	err := f.in("bring snapshot back", func(d *sys.Folder) error {
		return d.InSub(setAsideDir, func(all *sys.Folder) error {
			err := all.InSub(id, func(aside *sys.Folder) error {
				_, _, noState := aside.Size(stateFile)
				_, _, noMemory := aside.Size(memoryFile, f.UID)
				_, _, noWhole := aside.Size(wholeFile)
				if noWhole == nil {
					noMemory = nil // it is to take the memory's place
				}
				if err := errors.Join(noState, noMemory); err != nil {
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

// Unbring moves aside what a restore that was cut off has moved back.
func (f Files) Unbring(i mvm.Instance) error {
	if i.Op == nil || i.Op.Kind != mvm.OpRestore || i.Op.Snapshot == "" || i.Snapshot != nil {
		return nil
	}
	return f.SetAside(i.Op.Snapshot)
}

// moveParts moves what a snapshot has in its own folder. The state goes last.
func moveParts(from, to *sys.Folder) error {
	for _, name := range []string{pagesFile, wholeFile} {
		if err := sys.IfThere(moveFile(from, to, name)); err != nil {
			return err
		}
	}
	return sys.IfThere(moveFile(from, to, stateFile))
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
	return sys.IfThere(f.in("remove snapshot", func(d *sys.Folder) error {
		return d.InSub(setAsideDir, func(all *sys.Folder) error { return all.RemoveAll(id) })
	}))
}

// KeepAside removes what lies among the snapshots that were set aside and is none that the
// instance knows of, and says what. The instance's own may be on its way there.
func (f Files) KeepAside(i mvm.Instance) (removed []string, err error) {
	return removed, sys.IfThere(f.in("sweep what was set aside", func(d *sys.Folder) error {
		return d.InSub(setAsideDir, func(all *sys.Folder) (err error) {
			removed, err = keep(all, i.HasSnapshot)
			return err
		})
	}))
}

// AsideBytes is what snapshots that were set aside take in the instance's folder.
func AsideBytes(d *sys.Folder) (sum int64) {
	_ = d.InSub(setAsideDir, func(aside *sys.Folder) error { // none, or none of mvm's, takes nothing
		sum = aside.Bytes()
		return nil
	})
	return sum
}
