package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/snapshot"
	"mvm/internal/sys"
)

// An instance has two folders: instances/<id> below the data folder, and i/<id> below
// the run folder. Both are the agent's, 0700: a VMM gets open files and no folder.
// Whatever is done in them goes through a sys.Folder, which follows no link and touches
// nothing that mvm did not make.

func (a *Agent) instanceRoot() string { return filepath.Join(a.opt.DataDir, "instances") }

func (a *Agent) instanceDir(id string) string { return filepath.Join(a.instanceRoot(), id) }

// runRoot is the parent of all run dirs.
func (a *Agent) runRoot() string { return filepath.Join(a.opt.RunDir, "i") }

func (a *Agent) runDir(id string) string { return filepath.Join(a.runRoot(), id) }

// The names in an instance's durable folder. Package snapshot and the driver have more.
const (
	dataDisk    = "data.img"
	newDisk     = "data.img.new"
	consoleFile = "console.log"
	trashPrefix = ".trash-" // of what is being removed
)

// hostSocket is the name in the run dir on which guests' requests come in.
var hostSocket = fmt.Sprintf("v.sock_%d", guestproto.HostPort)

// snapshots are those of the instance.
func (a *Agent) snapshots(i mvm.Instance) snapshot.Files {
	return snapshot.Files{Instance: i.ID, Dir: a.instanceDir(i.ID), UID: i.UID}
}

// inInstance calls fn with the instance's durable folder. verb begins the error.
func (a *Agent) inInstance(id, verb string, fn func(*sys.Folder) error) error {
	return mvm.Explain(verb+" of "+id, sys.InFolder(a.instanceDir(id), fn))
}

// allocated is what a file takes on the disk, 0 when it is not there.
func allocated(d *sys.Folder, name string, owners ...int) (int64, error) {
	_, n, err := d.Size(name, owners...)
	return n, sys.IfThere(err)
}

// makeRoots makes the parents of the folders. VMMs of older versions pass through.
func (a *Agent) makeRoots() error {
	for _, dir := range []string{a.instanceRoot(), a.runRoot()} {
		if err := sys.MkdirAll(dir, 0o711); err != nil {
			return mvm.Errorf(mvm.KindInternal, "make folder: %w", err)
		}
	}
	return nil
}

func (a *Agent) makeRunDir(i mvm.Instance) error {
	return mvm.Explain("make run dir of "+i.ID, sys.InFolder(a.runRoot(), func(root *sys.Folder) error {
		d, err := root.MakeSub(i.ID)
		if err != nil {
			return err
		}
		return d.Close()
	}))
}

func (a *Agent) removeRunDir(id string) error {
	return mvm.Explain("remove run dir of "+id, sys.IfThere(sys.InFolder(a.runRoot(), func(root *sys.Folder) error { return root.RemoveAll(id) })))
}

// removeTree removes the instance's durable folder such that a crash leaves it whole or
// under a name that recovery sweeps.
func (a *Agent) removeTree(id string) error {
	return mvm.Explain("remove "+id, sys.InFolder(a.instanceRoot(), func(root *sys.Folder) error {
		if err := sys.IfThere(root.Rename(id, root, trashPrefix+id)); err != nil {
			return err
		}
		return root.RemoveAll(trashPrefix + id)
	}))
}

// sweepDir removes folders of instances that nobody owns, and what was being removed.
func sweepDir(path string, owned map[string]bool) error {
	return mvm.Explain("sweep folders", sys.InFolder(path, func(root *sys.Folder) error {
		names, err := root.Names()
		for _, name := range names {
			if !owned[name] && (strings.HasPrefix(name, "i-") || strings.HasPrefix(name, trashPrefix)) {
				err = errors.Join(err, root.RemoveAll(name))
			}
		}
		return err
	}))
}

// given are the names that older versions gave to the VMM's user, with the folder.
var given = []string{dataDisk, newDisk, snapshot.MemoryFile}

// takeBack makes the folders of an instance the agent's: older versions gave them to
// the VMM's user, which may have changed anything in them. Whatever mvm has not made
// there is refused, by name; it can do no harm any more, and stays for a look.
func (a *Agent) takeBack(i mvm.Instance) error {
	return errors.Join(a.takeDir(a.instanceDir(i.ID), i), a.takeDir(a.runDir(i.ID), i))
}

func (a *Agent) takeDir(path string, i mvm.Instance) error {
	d, taken, err := sys.TakeFolder(path, i.UID)
	if err != nil {
		return sys.IfThere(err)
	}
	defer d.Close()
	if !taken {
		return nil
	}
	a.log.Info("a folder that an older version gave to its VMM is the agent's again", "instance", i.ID, "folder", path)
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
	case name == hostSocket:
		return d.Remove(name)
	case snapshot.IsFolder(name):
		return d.CheckSub(name)
	case strings.HasSuffix(name, ".sock"), strings.HasSuffix(name, ".sock.new"):
		return d.CheckSocket(name)
	}
	return d.Take(name, os.Geteuid())
}
