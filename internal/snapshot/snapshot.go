// Package snapshot owns what a snapshot of an instance is: its files, what it belongs to
// and fits, how it is set aside and brought back, what it takes on the disk, and its
// removal.
//
// A snapshot has two parts. The guest's memory is the instance's own memory file, of which
// there is one. The device state is a file in a folder of the snapshot's, and beside it is
// what the memory file lacks, or a memory file that is to take its place, until the driver
// has put it there:
//
//	<instance>/memory
//	<instance>/snapshots/<snapshot>/{state,state.pages,state.memory}
//	<instance>/set-aside/<snapshot>/{memory,state,state.pages,state.memory}
//
// A snapshot that can't be used is set aside with all parts, so that a boot does not touch
// its memory. All of it is in the instance's durable folder and goes through a
// sys.Folder.
package snapshot

import (
	"errors"
	"os"
	"path/filepath"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/sys"
)

// The names in an instance's folder.
const (
	memoryFile   = "memory"
	snapshotsDir = "snapshots"
	setAsideDir  = "set-aside"
	stateFile    = "state"
)

// The names of what may be beside the device state.
const (
	pagesFile = stateFile + driver.PagesSuffix
	wholeFile = stateFile + driver.WholeSuffix
)

// MemoryFile is the name of the guest's memory in the instance's folder.
const MemoryFile = memoryFile

// IsFolder reports whether an entry of an instance's folder with the name is one of the
// folders that this package makes.
func IsFolder(name string) bool { return name == snapshotsDir || name == setAsideDir }

// Files are the snapshots of one instance, in its durable folder.
type Files struct {
	Instance string // id, for errors
	Dir      string // the instance's folder
	UID      int    // user of its VMM, to whom the memory may belong
}

// in calls fn with the instance's folder. verb begins the error.
func (f Files) in(verb string, fn func(*sys.Folder) error) error {
	return mvm.Explain(verb+" of "+f.Instance, sys.InFolder(f.Dir, fn))
}

// inSnapshot calls fn with the folder of a snapshot. d is the instance's.
func inSnapshot(d *sys.Folder, id string, fn func(*sys.Folder) error) error {
	return d.InSub(snapshotsDir, func(all *sys.Folder) error { return all.InSub(id, fn) })
}

// Memory is the path of the guest's memory.
func (f Files) Memory() string { return filepath.Join(f.Dir, memoryFile) }

// Of names the files of a snapshot for a driver.
func (f Files) Of(id string) driver.Snapshot {
	return driver.Snapshot{State: filepath.Join(f.Dir, snapshotsDir, id, stateFile)}
}

// Room makes the folder of the instance's snapshots, in the instance's folder, which is the
// caller's to sync.
func Room(d *sys.Folder) error {
	all, err := d.MakeSub(snapshotsDir)
	if err != nil {
		return err
	}
	return all.Close()
}

// Write makes the snapshot's folder, has write fill it, and makes it durable.
func (f Files) Write(id string, write func(driver.Snapshot) error) error {
	return f.in("make snapshot folder", func(d *sys.Folder) error {
		return inMade(d, snapshotsDir, id, func(*sys.Folder) error { return write(f.Of(id)) })
	})
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

// Bytes is what the snapshot takes on the disk. What is not there takes nothing.
func (f Files) Bytes(id string) (sum int64, err error) {
	err = f.in("measure snapshot", func(d *sys.Folder) error {
		memory, err := allocated(d, memoryFile, f.UID)
		if err != nil {
			return err
		}
		sum = memory
		return inSnapshot(d, id, func(s *sys.Folder) error {
			for _, name := range []string{stateFile, pagesFile, wholeFile} {
				n, err := allocated(s, name)
				if err != nil {
					return err
				}
				sum += n
			}
			return nil
		})
	})
	return sum, sys.IfThere(err)
}

func allocated(d *sys.Folder, name string, owners ...int) (int64, error) {
	_, n, err := d.Size(name, owners...)
	return n, sys.IfThere(err)
}

// Missing says in misfit that a part of the snapshot is not there; err, that it could not
// find out, or that what is there is not mvm's.
func (f Files) Missing(id string) (misfit, err error) {
	err = f.in("look at the device state", func(d *sys.Folder) error {
		return inSnapshot(d, id, func(own *sys.Folder) error {
			_, _, err := own.Size(stateFile)
			return err
		})
	})
	switch {
	case errors.Is(err, os.ErrNotExist):
		return mvm.Errorf(mvm.KindState, "its device state is missing: %w", err), nil
	case err != nil && !errors.Is(err, sys.ErrForeign):
		return nil, mvm.Errorf(mvm.KindUnavailable, "%w", err)
	}
	return nil, err
}

// Remove removes the snapshot's own folder. The memory stays: a VMM may go on from it.
func (f Files) Remove(id string) error {
	return sys.IfThere(f.in("remove snapshot", func(d *sys.Folder) error {
		return d.InSub(snapshotsDir, func(all *sys.Folder) error { return all.RemoveAll(id) })
	}))
}

// KeepOnly removes what sleeps that were cut off before their commit have written: every
// snapshot but one, "" for none.
func (f Files) KeepOnly(id string) error {
	return sys.IfThere(f.in("sweep snapshots", func(d *sys.Folder) error {
		return d.InSub(snapshotsDir, func(all *sys.Folder) error {
			_, err := keep(all, func(name string) bool { return name == id })
			return err
		})
	}))
}

// KeepOwn removes what is among the instance's snapshots and not on its record.
func (f Files) KeepOwn(i mvm.Instance) error {
	own := ""
	if i.Snapshot != nil {
		own = i.Snapshot.ID
	}
	return f.KeepOnly(own)
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
	return f.in("remove old memory", func(d *sys.Folder) error { return d.RemoveAll(memoryFile) })
}

// Discard removes the guest's memory and every snapshot that was not set aside.
func (f Files) Discard() error {
	return sys.IfThere(f.in("discard memory", func(d *sys.Folder) error {
		return errors.Join(d.RemoveAll(memoryFile), d.RemoveAll(snapshotsDir))
	}))
}
