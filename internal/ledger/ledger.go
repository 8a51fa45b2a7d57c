// Package ledger goes through the data folder of a host. It adds up what each kind of file takes
// on the disk, and it checks that each file belongs to a record and that each record has its
// files.
package ledger

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	"mvm"
	"mvm/internal/folders"
	"mvm/internal/guestlog"
	"mvm/internal/snapshot"
	"mvm/internal/store"
	"mvm/internal/sys"
)

// Store has the records.
type Store interface {
	View(fn func(*store.Tx) error) error
}

// Images has the images that records name.
type Images interface {
	// Has returns an error where the image is not there, or a file of it is not.
	Has(digest string) error
	// Verify reads all of the image.
	Verify(ctx context.Context, digest string) error
}

// Instances keeps operations away.
type Instances interface {
	// Apart calls fn with the record of the instance while no operation of it is under way.
	// Where one is, or the instance is gone, fn is not called.
	Apart(ctx context.Context, id string, fn func(mvm.Instance)) error
}

// Options are what a ledger is made of. All of them are required.
type Options struct {
	DataDir   string
	Store     Store
	Images    Images
	Instances Instances
	Folders   folders.Folders
	Log       *slog.Logger
}

// Ledger is that of one host. Its methods may be called concurrently.
type Ledger struct{ opt Options }

// New makes a ledger.
func New(opt Options) *Ledger { return &Ledger{opt} }

// Disk adds up what the files of the host take. Each file counts once, as one kind.
func (l *Ledger) Disk() (d mvm.NodeDisk, err error) {
	all, err := l.instances()
	if err != nil {
		return d, err
	}
	byID := make(map[string]mvm.Instance, len(all))
	for _, i := range all {
		byID[i.ID] = i
	}
	err = mvm.Explain("measure the data folder", sys.InFolder(l.opt.DataDir, func(root *sys.Folder) error {
		root.EachFile(func(path string, n int64) { *l.kind(&d, path, byID) += n })
		return nil
	}))
	if err != nil {
		return d, err
	}
	d.Free, err = sys.FreeBytes(l.opt.DataDir)
	return d, err
}

// kind is the sum to which a file counts.
func (l *Ledger) kind(d *mvm.NodeDisk, path string, byID map[string]mvm.Instance) *int64 {
	top, below, _ := strings.Cut(path, "/")
	if top == "images" {
		return &d.Images
	}
	if top == "builds" {
		return &d.Logs
	}
	if top != "instances" {
		return &d.Other
	}
	id, below, _ := strings.Cut(below, "/")
	i, known := byID[id]
	first, _, _ := strings.Cut(below, "/")
	switch {
	case !known:
		return &d.Other
	case first == snapshot.AsideFolder:
		return &d.SetAside
	case snapshot.IsFolder(first), first == snapshot.MemoryFile:
		if i.Snapshot == nil && !i.State.HoldsMemory() { // what is left serves those that were set aside
			return &d.SetAside
		}
		return &d.Sleepers
	case first == folders.DataDisk, first == folders.NewDisk:
		return &d.DataDisks
	case isLog(first):
		return &d.Logs
	}
	return &d.Other
}

func isLog(name string) bool {
	return name == folders.Console || name == folders.Console+".1" || slices.Contains(guestlog.Names(), name)
}

func (l *Ledger) instances() (all []mvm.Instance, err error) {
	err = l.opt.Store.View(func(tx *store.Tx) (err error) {
		all, err = tx.Instances("", "")
		return err
	})
	return all, err
}
