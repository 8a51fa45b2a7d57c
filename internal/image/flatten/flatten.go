// Package flatten puts the layers of a container image together to one tree.
//
// Layers are from strangers. They are read once, from their first byte to their last, and
// compared with their digests; their paths are names in a tree in memory, and never those
// of files on the host. What an entry claims (its size, its name, where it links to) is
// checked before the entry is read. An entry that could do harm is refused by its name.
package flatten

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"mvm"
	"mvm/internal/image/erofs"
)

// Limits bound what the layers of an image may have together.
type Limits struct {
	Entries int   // entries, also those that later layers replace
	Bytes   int64 // content of files
	Disk    int64 // the same, where the disk has room for less; 0: it has room
	Meta    int64 // bytes of names, link targets and attributes
	Depth   int   // folders above a file
	Links   int   // names of one file
	Xattrs  int   // bytes of attributes of one file
}

// DefaultLimits fit the largest images that people run.
func DefaultLimits() Limits {
	return Limits{Entries: 1_000_000, Bytes: 32 << 30, Meta: 256 << 20, Depth: 128, Links: 65_000, Xattrs: 64 << 10}
}

// Layer is one layer of an image.
type Layer struct {
	Digest string // "sha256:<hex>" of the blob; "": not known
	DiffID string // "sha256:<hex>" of what the blob unpacks to
	// EStargz leaves out the files that only help to fetch parts of the layer.
	EStargz bool
	Blob    io.Reader // ends where the blob does
}

// Result is what became of the layers.
type Result struct {
	Root    *erofs.Node
	Entries int
	Bytes   int64
	LeftOut int // devices, pipes and sockets
}

// Flattener is a tree that layers are added to, the lowest first.
type Flattener struct {
	limits Limits
	spool  *os.File
	at     int64 // where the next content goes
	root   *node
	layer  int
	done   Result
	meta   int64
}

// New returns one that keeps contents in the file spool, which is empty.
func New(spool *os.File, l Limits) *Flattener {
	return &Flattener{limits: l, spool: spool, root: newFolder()}
}

// Add adds a layer. After an error the tree is of no use.
func (f *Flattener) Add(ctx context.Context, l Layer) error {
	f.layer++
	if err := f.add(ctx, l); err != nil {
		return fmt.Errorf("layer %d (%.19s): %w", f.layer, l.DiffID, err)
	}
	return nil
}

func (f *Flattener) add(ctx context.Context, l Layer) error {
	in, err := openLayer(ctx, l, f.limits)
	if err != nil {
		return err
	}
	defer in.close()
	r := tar.NewReader(in.content)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return refused("", "read entry %d: %w", f.done.Entries+1, err)
		}
		if f.done.Entries++; f.done.Entries > f.limits.Entries {
			return refused(h.Name, "the image has more than %d entries", f.limits.Entries)
		}
		if err := f.entry(h, r, l.EStargz); err != nil {
			return err
		}
	}
	return in.verify()
}

// Finish returns the tree. Its contents are in the spool file, which must stay open.
func (f *Flattener) Finish() (Result, error) {
	if err := f.spool.Truncate(f.at); err != nil { // holes at the end are part of contents
		return Result{}, err
	}
	f.done.Root = f.root.finish()
	return f.done, nil
}

// refused is the error of an entry that is not taken.
func refused(name, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if name != "" {
		err = fmt.Errorf("entry %.300q: %w", name, err)
	}
	if mvm.IsKind(err, mvm.KindUnavailable) {
		return err
	}
	return mvm.Errorf(mvm.KindInvalid, "%w", err).WithFix("the image is damaged or made to do harm: get it from its source again, or do not use it")
}
