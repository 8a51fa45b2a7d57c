package rundir

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/sys"
)

// Open opens a file that the VMM of the Spec is to get: one that the caller has opened, one
// of the instance, or one of an image, which is the host's, and no VMM can put anything
// there. own says that the caller of Open has to close it.
func Open(spec driver.Spec, path string, flag int) (f *os.File, own bool, err error) {
	if f := spec.Opened[path]; f != nil {
		return f, false, nil
	}
	rel, rerr := filepath.Rel(spec.Dir, path)
	if rerr != nil || !filepath.IsLocal(rel) {
		f, err = os.OpenFile(path, flag|syscall.O_CLOEXEC, 0)
	} else {
		err = sys.InParent(spec.Dir, path, func(d *sys.Folder, name string) (err error) {
			f, err = d.Open(name, flag)
			return err
		})
	}
	if err != nil {
		return nil, false, mvm.Errorf(OpenKind(err), "open for the VMM: %w", err)
	}
	return f, true, nil
}

// Guest are the files of a Spec that a VMM is to get.
type Guest struct {
	Kernel, Initrd *os.File // nil: it does not boot, or has no initrd
	Disks          []*os.File
	Own            []*os.File // those that the caller of OpenGuest has to close
}

// OpenGuest opens the disks of the Spec, and for a boot kernel and initrd: a snapshot has its
// kernel in memory. What is open already is returned beside an error too.
func OpenGuest(spec driver.Spec, boots bool) (g Guest, err error) {
	open := func(path string, flag int) *os.File {
		if err != nil {
			return nil
		}
		f, own, oerr := Open(spec, path, flag)
		if err = oerr; own {
			g.Own = append(g.Own, f)
		}
		return f
	}
	if boots {
		g.Kernel = open(spec.Kernel, os.O_RDONLY)
	}
	if boots && spec.Initrd != "" {
		g.Initrd = open(spec.Initrd, os.O_RDONLY)
	}
	for _, disk := range spec.Disks {
		flag := os.O_RDWR
		if disk.ReadOnly {
			flag = os.O_RDONLY
		}
		g.Disks = append(g.Disks, open(disk.Path, flag))
	}
	return g, err
}

// OpenKind is the kind of the error of a file that can't be opened.
func OpenKind(err error) mvm.Kind {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.EISDIR) {
		return mvm.KindInvalid
	}
	return mvm.KindUnavailable
}

// BadSnapshot is an error about the snapshot itself.
func BadSnapshot(format string, args ...any) error {
	return &driver.SnapshotError{Err: mvm.Errorf(mvm.KindInvalid, format, args...)}
}

// OpenError is the error for a part of a snapshot that can't be opened: it is the
// snapshot's where the file is not there or is none, and else the host's.
func OpenError(what string, err error) error {
	if OpenKind(err) == mvm.KindInvalid {
		return BadSnapshot("open the snapshot's %s: %w", what, err)
	}
	return mvm.Errorf(OpenKind(err), "open the snapshot's %s: %w", what, err)
}

// Ended gives an error the kind of the context's end, if that is what made it.
func Ended(ctx context.Context, err error) error {
	switch cause := ctx.Err(); {
	case errors.Is(cause, context.DeadlineExceeded):
		return mvm.Errorf(mvm.KindTimeout, "%w", err)
	case cause != nil:
		return mvm.Errorf(mvm.KindCanceled, "%w", err)
	}
	return err
}
