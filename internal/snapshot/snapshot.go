// Package snapshot owns what a snapshot of an instance is: its files, what it belongs to
// and fits, how it is set aside and brought back, what it takes on the disk, and its
// removal.
//
// A snapshot is a map of the guest's memory and the state of its devices, in a folder of its
// own. The pages are in segments, which all snapshots of an instance share. All of these are
// sealed with the tenant's key; see packages segment and sealed.
//
//	<instance>/segments/seg-<random>
//	<instance>/snapshots/<snapshot>/{map,device}
//	<instance>/set-aside/<snapshot>/{map,device}
//	<instance>/previous/<snapshot>/map            while its guest runs
//
// A snapshot that can't be used is set aside, and its segments stay. The map of one that a
// guest was restored from is kept until the next sleep, which writes only what differs from
// it. What no map names is swept.
//
// Older versions kept snapshots in the clear, and a driver that seals none still does. These
// can be restored, set aside and brought back; a sealed sleep leaves none:
//
//	<instance>/memory
//	<instance>/{snapshots,set-aside}/<snapshot>/{state,state.pages,state.memory}
//	<instance>/set-aside/<snapshot>/memory
//
// All of it is in the instance's durable folder and goes through a sys.Folder.
package snapshot

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/sys"
	"mvm/internal/tenantkey"
	"mvm/internal/wait"
)

// The names in an instance's folder.
const (
	memoryFile   = "memory"
	segmentsDir  = "segments"
	snapshotsDir = "snapshots"
	setAsideDir  = AsideFolder
	previousDir  = "previous"
)

// The names in a snapshot's folder.
const (
	mapFile    = "map"    // segment.MapFile
	deviceFile = "device" // segment.DeviceFile
	stateFile  = "state"  // of an older version, with what may be beside it
	pagesFile  = stateFile + driver.PagesSuffix
	wholeFile  = stateFile + driver.WholeSuffix
)

// MemoryFile is the name of the guest's memory in the instance's folder, as older versions
// kept it.
const MemoryFile = memoryFile

// AsideFolder is the name, in the instance's folder, of the folder of what was set aside.
const AsideFolder = "set-aside"

// IsFolder reports whether an entry of an instance's folder with the name is one of the
// folders that this package makes.
func IsFolder(name string) bool {
	return name == snapshotsDir || name == setAsideDir || name == segmentsDir || name == previousDir
}

// Sealed is a snapshot as it is sealed: its id, its folder, the instance's segments and the key.
type Sealed struct {
	ID            string
	Own, Segments *sys.Folder
	Key           *tenantkey.Key
}

// Segments is who knows what is in the files of snapshots.
type Segments interface {
	// Sweep removes the segments in the folder that no snapshot needs, of those that each
	// calls fn with. It removes none while the map of one can't be read, for that may need them.
	Sweep(segments *sys.Folder, each func(fn func(Sealed) error) error) error
	// Rewrap has the snapshot opened by the key of now alone. What is damaged stays as it is.
	Rewrap(Sealed) error
	// Needs names the segments that the snapshot needs, once it has opened them all.
	Needs(Sealed) ([]string, error)
	// Read reads all of the snapshot, and verifies it.
	Read(context.Context, Sealed) error
}

// Shared is what the snapshots of all instances of a host share.
type Shared struct {
	// Key is the key of the tenant.
	Key func(tenant string) (*tenantkey.Key, error)
	// Segments knows what is in the files.
	Segments Segments
	// busy are instances whose segments are written, or swept.
	busy wait.Locks
}

// Files are the snapshots of one instance, in its durable folder.
type Files struct {
	Instance string // id, for errors
	Tenant   string
	Dir      string // the instance's folder
	UID      int    // user of its VMM, to whom the memory may belong
	Shared   *Shared
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
func (f Files) Of(ref mvm.SnapshotRef) (driver.Snapshot, error) {
	snap := driver.Snapshot{State: filepath.Join(f.Dir, snapshotsDir, ref.ID, stateFile)}
	if !ref.Sealed {
		return snap, nil
	}
	var err error
	snap.ID, snap.Segments = f.bound(ref.ID), filepath.Join(f.Dir, segmentsDir)
	snap.Key, err = f.Shared.Key(f.Tenant)
	return snap, err
}

// bound is the id that is sealed with a snapshot: it is no other instance's.
func (f Files) bound(id string) string { return f.Instance + "/" + id }

// Room makes the folders of the instance's snapshots, in the instance's folder, which is the
// caller's to sync.
func Room(d *sys.Folder) error {
	for _, name := range []string{snapshotsDir, segmentsDir} {
		made, err := d.MakeSub(name)
		if err != nil {
			return err
		}
		if err := made.Close(); err != nil {
			return err
		}
	}
	return nil
}

// Write makes the snapshot's folder, has write fill it, and makes it durable. Only drivers
// that can't seal write what is not sealed.
func (f Files) Write(ref mvm.SnapshotRef, write func(driver.Snapshot) error) error {
	defer f.Shared.busy.Lock(f.Instance)()
	return f.in("make snapshot folder", func(d *sys.Folder) error {
		snap, err := f.Of(ref)
		if err != nil {
			return err
		}
		if err := Room(d); err != nil {
			return err
		}
		snap.Previous = f.previous(d)
		return inMade(d, snapshotsDir, ref.ID, func(*sys.Folder) error { return write(snap) })
	})
}

// previous is the snapshot that the guest was restored from, if its map is there. It makes a
// sleep cheaper, and nothing depends on it.
func (f Files) previous(d *sys.Folder) (p driver.Previous) {
	_ = d.InSub(previousDir, func(all *sys.Folder) error {
		names, err := all.Names()
		if len(names) == 1 {
			p = driver.Previous{ID: f.bound(names[0]), Dir: filepath.Join(f.Dir, previousDir, names[0])}
		}
		return err
	})
	return p
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

// Bytes is what the snapshot takes on the disk, with what an earlier one has left there. What
// is not there takes nothing. Without an id it is what is kept while the guest runs.
func (f Files) Bytes(id string) (sum int64, err error) {
	add := func(d *sys.Folder, name string, owners ...int) error {
		n, err := allocated(d, name, owners...)
		sum += n
		return err
	}
	err = f.in("measure snapshot", func(d *sys.Folder) error {
		err := sys.IfThere(d.InSub(segmentsDir, func(all *sys.Folder) error {
			names, err := all.Names()
			for _, name := range names {
				err = errors.Join(err, add(all, name))
			}
			return err
		}))
		if err != nil || id == "" {
			return err
		}
		if err := add(d, memoryFile, f.UID); err != nil {
			return err
		}
		return inSnapshot(d, id, func(s *sys.Folder) error {
			for _, name := range partNames() {
				if err := add(s, name); err != nil {
					return err
				}
			}
			return nil
		})
	})
	return sum, sys.IfThere(err)
}

// partNames are the names of what a snapshot may have in its own folder, the one last by
// which it is there.
func partNames() []string { return []string{pagesFile, wholeFile, deviceFile, stateFile, mapFile} }

func allocated(d *sys.Folder, name string, owners ...int) (int64, error) {
	_, n, err := d.Size(name, owners...)
	return n, sys.IfThere(err)
}

// Missing says in misfit that a part of the snapshot is not there; err, that it could not
// find out, or that what is there is not mvm's.
func (f Files) Missing(ref mvm.SnapshotRef) (misfit, err error) {
	names := []string{stateFile}
	if ref.Sealed {
		names = []string{mapFile, deviceFile}
	}
	err = f.in("look at the device state", func(d *sys.Folder) error {
		return inSnapshot(d, ref.ID, func(own *sys.Folder) error {
			for _, name := range names {
				if _, _, err := own.Size(name); err != nil {
					return err
				}
			}
			return nil
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
