package agent

import (
	"errors"

	"mvm"
	"mvm/internal/sys"
)

// moveAside moves a snapshot's memory and device state to a folder of their own. It can
// run twice: what it has moved before stays.
func (a *Agent) moveAside(i mvm.Instance, snap string) error {
	err := a.inInstance(i.ID, "set snapshot aside", func(d *sys.Folder) error {
		return inMade(d, setAsideDir, snap, func(aside *sys.Folder) error {
			state := a.inSnapshot(d, snap, func(own *sys.Folder) error { return moveFile(own, aside, stateFile) })
			return errors.Join(sys.IfThere(state), sys.IfThere(moveFile(d, aside, memoryFile, i.UID)))
		})
	})
	if err != nil {
		return err
	}
	return a.removeSnapshot(i.ID, snap)
}

// moveBack is the reverse of moveAside. Both files have to be there.
func (a *Agent) moveBack(i mvm.Instance, snap string) error {
	err := a.inInstance(i.ID, "bring snapshot back", func(d *sys.Folder) error {
		return d.InSub(setAsideDir, func(all *sys.Folder) error {
			err := all.InSub(snap, func(aside *sys.Folder) error {
				_, _, noState := aside.Size(stateFile)
				_, _, noMemory := aside.Size(memoryFile, i.UID)
				if err := errors.Join(noState, noMemory); err != nil {
					return err
				}
				return inMade(d, snapshotsDir, snap, func(own *sys.Folder) error {
					return errors.Join(moveFile(aside, own, stateFile), moveFile(aside, d, memoryFile, i.UID))
				})
			})
			if err != nil {
				return err
			}
			return all.RemoveAll(snap)
		})
	})
	if err != nil && sys.IfThere(err) == nil {
		return mvm.Errorf(mvm.KindState, "bring back snapshot %s of %s: a part of it is lost: %w", snap, i.ID, err)
	}
	return err
}

// inMade calls fn with a folder two levels down, made where it is not there, and makes
// what fn does in it durable.
func inMade(d *sys.Folder, folder, name string, fn func(*sys.Folder) error) error {
	all, err := d.MakeSub(folder)
	if err != nil {
		return err
	}
	defer all.Close()
	own, err := all.MakeSub(name)
	if err != nil {
		return err
	}
	defer own.Close()
	if err := fn(own); err != nil {
		return err
	}
	return errors.Join(own.Sync(), all.Sync(), d.Sync())
}

// moveFile moves a file that is mvm's.
func moveFile(from, to *sys.Folder, name string, owners ...int) error {
	if _, _, err := from.Size(name, owners...); err != nil {
		return err
	}
	return from.Rename(name, to, name)
}

// removeAsideFiles removes the files of a snapshot that is set aside no longer.
func (a *Agent) removeAsideFiles(i mvm.Instance, snap string) error {
	return sys.IfThere(a.inInstance(i.ID, "remove snapshot", func(d *sys.Folder) error {
		return d.InSub(setAsideDir, func(all *sys.Folder) error { return all.RemoveAll(snap) })
	}))
}

// sweepAside removes what lies among the snapshots that were set aside and is none that
// the instance knows of.
func (a *Agent) sweepAside(i mvm.Instance) error {
	known := map[string]bool{}
	if i.Snapshot != nil {
		known[i.Snapshot.ID] = true // it was about to be
	}
	for _, s := range i.SetAside {
		known[s.Snapshot.ID] = true
	}
	return sys.IfThere(a.inInstance(i.ID, "sweep what was set aside", func(d *sys.Folder) error {
		return d.InSub(setAsideDir, func(all *sys.Folder) error {
			names, err := all.Names()
			for _, name := range names {
				if !known[name] {
					a.log.Warn("remove what was set aside and is not on record", "instance", i.ID, "snapshot", name)
					err = errors.Join(err, all.RemoveAll(name))
				}
			}
			return err
		})
	}))
}
