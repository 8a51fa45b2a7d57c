// Package atrest keeps what VMMs hold while their instances sleep, for all drivers: memory and
// device state go from a paused VMM to sealed files, and from there to a VMM that is about to
// run. The files are those of package segment; the memory of guests is over zeros.
package atrest

import (
	"bytes"
	"context"
	"path/filepath"
	"slices"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/snapshot/sealed"
	"mvm/internal/snapshot/segment"
	"mvm/internal/sys"
)

// Memory is a guest's memory in its VMM; vmproc.Memory describes it.
type Memory interface {
	Shared() bool
	Changed(ctx context.Context, from int64, most int) (runs []sys.PageRun, next int64, err error)
	Read(ctx context.Context, runs []sys.PageRun, buf []byte) error
}

// VMM is what of a paused VMM is saved.
type VMM struct {
	Dir    string // the instance's durable folder
	MemMiB int
	Device []byte
	Memory Memory
	// OverFile says that the memory began with a file, and not with zeros: pages that its
	// guest has not changed are read too, unless the snapshot before is among Over.
	OverFile bool
	// Over are the ids (Snapshot.ID) of snapshots that have the same as the memory in all
	// pages that its guest has not changed.
	Over []string
	// Seam is that of segment.Place.
	Seam func(op string) error
}

// listAtOnce is how many changed pages are asked for at once.
const listAtOnce = 64 << 10

func pagesOf(memMiB int) uint32 { return uint32(int64(memMiB) << 20 / sys.PageSize) }

// Save writes the snapshot, durable, and returns its id; what had its place before is gone
// then. After an error nothing of it is left.
func Save(ctx context.Context, snap driver.Snapshot, v VMM) (id string, err error) {
	if snap.Key == nil {
		return "", mvm.Errorf(mvm.KindInvalid, "save snapshot %s: there is no key to seal it with", snap.State)
	}
	err = in(v.Dir, snap, func(p segment.Place) error {
		p.Seam = v.Seam
		pages := pagesOf(v.MemMiB)
		previous := previousMap(v.Dir, snap, p, pages)
		for _, name := range []string{segment.MapFile, segment.DeviceFile} {
			if err := sys.IfThere(p.Own.Remove(name)); err != nil {
				return mvm.Explain("make room for the snapshot", err)
			}
		}
		changed, since, err := v.changed(ctx, pages, previous)
		if err != nil {
			return err
		}
		saved, err := p.Save(ctx, segment.Sleep{Memory: reader{v.Memory}, Pages: pages, Changed: changed, Since: since, Previous: previous, Device: bytes.NewReader(v.Device)})
		if err == nil {
			id = saved.Map.ID()
		}
		return err
	})
	return id, err
}

// in calls fn with the place of the snapshot in the instance's folder.
func in(dir string, snap driver.Snapshot, fn func(segment.Place) error) error {
	own, _, err := sys.OpenParent(dir, snap.State)
	if err != nil {
		return mvm.Explain("open the snapshot", err)
	}
	defer own.Close()
	above, name, err := sys.OpenParent(dir, snap.Segments)
	if err != nil {
		return mvm.Explain("open the snapshot", err)
	}
	defer above.Close()
	segments, err := above.Sub(name)
	if err != nil {
		return mvm.Explain("open the snapshot", err)
	}
	defer segments.Close()
	return fn(segment.Place{ID: snap.ID, Own: own, Segments: segments, Key: snap.Key})
}

// previousMap is the map of the snapshot before, nil where there is none to rely on: then all
// is written.
func previousMap(dir string, snap driver.Snapshot, p segment.Place, pages uint32) *segment.Map {
	use := func(p segment.Place) (m *segment.Map, err error) {
		if m, err = p.ReadMap(pages); err == nil {
			err = p.Check(m)
		}
		return m, err
	}
	if snap.Previous.Dir == "" {
		if m, err := use(p); err == nil { // the one that this one replaces
			return m
		}
		return nil
	}
	var m *segment.Map
	err := sys.InParent(dir, filepath.Join(snap.Previous.Dir, segment.MapFile), func(own *sys.Folder, _ string) (err error) {
		p.ID, p.Own = snap.Previous.ID, own
		m, err = use(p)
		return err
	})
	if err != nil {
		return nil
	}
	return m
}

// changed lists the pages that may differ, and says from what.
func (v VMM) changed(ctx context.Context, pages uint32, previous *segment.Map) ([]segment.Run, segment.Since, error) {
	switch {
	case v.Memory.Shared():
	case !v.OverFile:
		runs, err := v.list(ctx, pages)
		return runs, segment.SinceBase, err
	case previous != nil && slices.Contains(v.Over, previous.ID()):
		runs, err := v.list(ctx, pages)
		return runs, segment.SincePrevious, err
	}
	return []segment.Run{{Page: 0, Count: pages}}, segment.SinceBase, nil
}

// list lists the pages that the guest has changed.
func (v VMM) list(ctx context.Context, pages uint32) (out []segment.Run, err error) {
	err = EachChanged(ctx, v.Memory, int64(pages), func(runs []sys.PageRun) error {
		for _, r := range runs {
			if n := len(out); n > 0 && int64(out[n-1].Page+out[n-1].Count) == r.Page {
				out[n-1].Count += uint32(r.Count)
			} else {
				out = append(out, segment.Run{Page: uint32(r.Page), Count: uint32(r.Count)})
			}
		}
		return nil
	})
	return out, err
}

// EachChanged calls fn with the pages that the guest has changed of a memory of so many, some at a
// time.
func EachChanged(ctx context.Context, m Memory, pages int64, fn func([]sys.PageRun) error) error {
	for page := int64(0); page < pages; {
		runs, next, err := m.Changed(ctx, page, listAtOnce)
		if err == nil && next <= page {
			err = mvm.Errorf(mvm.KindUnavailable, "list the guest's pages: it does not get past page %d", page)
		}
		if err == nil {
			err = fn(runs)
		}
		if err != nil {
			return err
		}
		page = next
	}
	return nil
}

// told makes an error about the snapshot the contract's.
func told(err error) error {
	if sealed.ReasonOf(err) == "" {
		return err
	}
	return &driver.SnapshotError{Err: mvm.Errorf(mvm.KindInvalid, "%w", err)}
}

// reader has segments read from a memory.
type reader struct{ m Memory }

// Read is described at segment.Memory.
func (r reader) Read(ctx context.Context, pieces []segment.Piece) error {
	runs, size := runsOf(pieces)
	buf, joined := join(pieces, size)
	if !joined {
		buf = make([]byte, size)
	}
	if err := r.m.Read(ctx, runs, buf); err != nil || joined {
		return err
	}
	for _, p := range pieces {
		buf = buf[copy(p.Data, buf):]
	}
	return nil
}

// runsOf are the pages of the pieces, and how many bytes they have.
func runsOf(pieces []segment.Piece) (runs []sys.PageRun, size int) {
	for _, p := range pieces {
		n := int64(len(p.Data) / sys.PageSize)
		if k := len(runs) - 1; k >= 0 && runs[k].Page+runs[k].Count == int64(p.Page) {
			runs[k].Count += n
		} else {
			runs = append(runs, sys.PageRun{Page: int64(p.Page), Count: n})
		}
		size += len(p.Data)
	}
	return runs, size
}

// join is the content of all pieces as one, where they lie one behind the other.
func join(pieces []segment.Piece, size int) ([]byte, bool) {
	if len(pieces) == 0 || cap(pieces[0].Data) < size {
		return nil, len(pieces) == 0
	}
	all, at := pieces[0].Data[:size], 0
	for _, p := range pieces {
		if &all[at] != &p.Data[0] {
			return nil, false
		}
		at += len(p.Data)
	}
	return all, true
}
