// Package folders has the two folders of each instance: instances/<id> below the data
// folder, and i/<id> below the run folder. Both are the agent's, 0700: a VMM gets open files
// and no folder. Whatever is done in them goes through a sys.Folder, which follows no link
// and touches nothing that mvm did not make.
package folders

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/snapshot"
	"mvm/internal/sys"
)

// Folders are those of a host's instances.
type Folders struct {
	root, runRoot string
	log           *slog.Logger
	shared        *snapshot.Shared
}

// New are the folders below the data folder and the run folder. shared is
// what the snapshots in them share.
func New(dataDir, runDir string, log *slog.Logger, shared *snapshot.Shared) Folders {
	return Folders{filepath.Join(dataDir, "instances"), filepath.Join(runDir, "i"), log, shared}
}

// Root is the parent of all durable folders.
func (f Folders) Root() string { return f.root }

// Dir is the instance's durable folder.
func (f Folders) Dir(id string) string { return filepath.Join(f.root, id) }

// RunRoot is the parent of all run dirs.
func (f Folders) RunRoot() string { return f.runRoot }

// RunDir is the instance's run dir.
func (f Folders) RunDir(id string) string { return filepath.Join(f.runRoot, id) }

// The names in an instance's durable folder. Package snapshot and the driver have more.
const (
	DataDisk = "data.img"
	NewDisk  = "data.img.new" // while it is made
	Console  = "console.log"
)

// HostSocket is the name in the run dir on which guests' requests come in.
var HostSocket = fmt.Sprintf("v.sock_%d", guestproto.HostPort)

// Snapshots are those of the instance.
func (f Folders) Snapshots(i mvm.Instance) snapshot.Files {
	return snapshot.Files{Instance: i.ID, Tenant: i.Tenant, Dir: f.Dir(i.ID), UID: i.UID, Shared: f.shared}
}

// In calls fn with the instance's durable folder. verb begins the error.
func (f Folders) In(id, verb string, fn func(*sys.Folder) error) error {
	return mvm.Explain(verb+" of "+id, sys.InFolder(f.Dir(id), fn))
}

// Allocated is what a file takes on the disk, 0 when it is not there.
func Allocated(d *sys.Folder, name string, owners ...int) (int64, error) {
	_, n, err := d.Size(name, owners...)
	return n, sys.IfThere(err)
}

// MakeRoots makes the parents of the folders. VMMs of older versions pass through.
func (f Folders) MakeRoots() error {
	for _, dir := range []string{f.root, f.runRoot} {
		if err := sys.MkdirAll(dir, 0o711); err != nil {
			return mvm.Errorf(mvm.KindInternal, "make folder: %w", err)
		}
	}
	return nil
}

// MakeRunDir makes the instance's run dir, unless it is there.
func (f Folders) MakeRunDir(i mvm.Instance) error {
	return mvm.Explain("make run dir of "+i.ID, sys.InFolder(f.runRoot, func(root *sys.Folder) error {
		d, err := root.MakeSub(i.ID)
		if err != nil {
			return err
		}
		return d.Close()
	}))
}

// RemoveRunDir removes the instance's run dir with all that is in it.
func (f Folders) RemoveRunDir(id string) error {
	return mvm.Explain("remove run dir of "+id, sys.IfThere(sys.InFolder(f.runRoot, func(root *sys.Folder) error { return root.RemoveAll(id) })))
}

// Remove removes the instance's durable folder such that a crash leaves it whole or
// under a name that recovery sweeps.
func (f Folders) Remove(id string) error {
	return mvm.Explain("remove "+id, sys.InFolder(f.root, func(root *sys.Folder) error {
		if err := sys.IfThere(root.Rename(id, root, sys.TrashPrefix+id)); err != nil {
			return err
		}
		return root.RemoveAll(sys.TrashPrefix + id)
	}))
}

// Sweep removes folders of instances that nobody owns, and what was being removed.
func (f Folders) Sweep(owned map[string]bool) error {
	return errors.Join(sweepDir(f.runRoot, owned), sweepDir(f.root, owned))
}

func sweepDir(path string, owned map[string]bool) error {
	return mvm.Explain("sweep folders", sys.InFolder(path, func(root *sys.Folder) error {
		names, err := root.Names()
		for _, name := range names {
			if !owned[name] && (strings.HasPrefix(name, "i-") || strings.HasPrefix(name, sys.TrashPrefix)) {
				err = errors.Join(err, root.RemoveAll(name))
			}
		}
		return err
	}))
}

// given are the names that older versions gave to the VMM's user, with the folder.
var given = []string{DataDisk, NewDisk, snapshot.MemoryFile}

// TakeBack makes the folders of an instance the agent's: older versions gave them to
// the VMM's user, which may have changed anything in them. Whatever mvm has not made
// there is refused, by name; it can do no harm any more, and stays for a look.
func (f Folders) TakeBack(i mvm.Instance) error {
	return errors.Join(f.takeDir(f.Dir(i.ID), i), f.takeDir(f.RunDir(i.ID), i))
}

func (f Folders) takeDir(path string, i mvm.Instance) error {
	d, taken, err := sys.TakeFolder(path, i.UID)
	if err != nil {
		return sys.IfThere(err)
	}
	defer d.Close()
	if !taken {
		return nil
	}
	f.log.Info("a folder that an older version gave to its VMM is the agent's again", "instance", i.ID, "folder", path)
	names, err := d.Names()
	for _, name := range names {
		err = errors.Join(err, takeFile(d, name, i.UID))
	}
	return err
}

// takeFile takes back one name. The folders in the folder were never the VMM's, nor
// were its sockets, but for the one that is about to be made anew.
func takeFile(d *sys.Folder, name string, uid int) error {
	switch {
	case slices.Contains(given, name):
		return d.Take(name, uid)
	case name == HostSocket:
		return d.Remove(name)
	case snapshot.IsFolder(name):
		return d.CheckSub(name)
	case strings.HasSuffix(name, ".sock"), strings.HasSuffix(name, ".sock.new"):
		return d.CheckSocket(name)
	}
	return d.Take(name, os.Geteuid())
}

// TakeBackOthers takes back the run dirs that no instance has any more, for the sweep.
func (f Folders) TakeBackOthers(instances []mvm.Instance) {
	err := sys.InFolder(f.runRoot, func(root *sys.Folder) error {
		names, err := root.Names()
		for _, name := range names {
			if !strings.HasPrefix(name, "i-") || slices.ContainsFunc(instances, func(i mvm.Instance) bool { return i.ID == name }) {
				continue
			}
			d, _, terr := sys.TakeFolder(f.RunDir(name), sys.AnyUser)
			if err = errors.Join(err, terr); terr == nil {
				err = errors.Join(err, d.Close())
			}
		}
		return err
	})
	if err != nil { // the sweep removes it all the same
		f.log.Warn("take back run dirs that nobody owns", "error", err)
	}
}
