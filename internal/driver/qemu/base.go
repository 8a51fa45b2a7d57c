package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/driver/atrest"
	"mvm/internal/driver/rundir"
	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
)

// base is a file in memory with the pages of a snapshot, which one VMM maps privately. It was made
// ready before, or is filled while the VMM starts.
type base struct {
	f      *os.File
	snap   *atrest.Snapshot
	cancel context.CancelFunc
	done   chan struct{} // closed when the filling has ended
	err    error         // of the filling, once done is closed
}

// own is what the driver notes in the record of a VMM that maps a base.
type own struct {
	Inode uint64   `json:"memory_inode"`   // of the base
	Over  []string `json:"memory_is_from"` // atrest.VMM.Over
}

func ownOf(rec rundir.Record) (o own) {
	_ = json.Unmarshal(rec.Own, &o) // what can't be read is not known
	return o
}

// newBase opens the snapshot and, unless it is ready, begins to fill a base from it. The caller closes it.
func (l *launcher) newBase(ctx context.Context) (_ *base, err error) {
	s, err := atrest.Open(l.spec.Dir, *l.snap, l.spec.MemMiB)
	if err != nil {
		return nil, err
	}
	b := &base{f: s.Memory(), snap: s, done: make(chan struct{})}
	ctx, b.cancel = context.WithCancel(ctx)
	if b.f != nil { // it is ready
		close(b.done)
		return b, nil
	}
	f, err := sys.NewMemoryFile(atrest.MemoryName, int64(l.spec.MemMiB)<<20)
	if err != nil {
		b.cancel()
		return nil, errors.Join(mvm.Errorf(mvm.KindUnavailable, "make the guest's memory: %w", err), s.Close())
	}
	b.f = f
	go func() {
		defer close(b.done)
		b.err = s.Fill(ctx, f)
	}()
	return b, nil
}

// filled waits until all pages are in the base, verified.
func (b *base) filled() error {
	<-b.done
	return b.err
}

// close ends the filling, and closes the snapshot and the file unless it was kept.
func (b *base) close() {
	b.cancel()
	<-b.done
	_ = b.snap.Close() // it was read only
	if b.f != nil {
		_ = b.f.Close()
	}
}

// keep hands the file over, which is filled.
func (b *base) keep() *os.File {
	f := b.f
	b.f = nil
	return f
}

// own is what is noted about the base.
func (b *base) own() (json.RawMessage, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(b.f.Fd()), &st); err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "look at the guest's memory: %w", err)
	}
	return json.Marshal(own{Inode: st.Ino, Over: []string{b.snap.ID()}})
}

// complete waits until the base has all pages. A page that the VMM has written before is its own
// by then, and gets what the base has: none reaches the guest that is not the snapshot's.
func (v *vmm) complete(ctx context.Context, b *base) error {
	var written []sys.PageRun // by a VMM that has started: it writes no more
	err := v.eachChanged(ctx, func(runs []sys.PageRun) error {
		written = append(written, runs...)
		return nil
	})
	if err := b.filled(); err != nil {
		return err
	}
	if err != nil || len(written) == 0 {
		return err
	}
	m, _, err := v.guestMemory(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	return copyPages(ctx, m, b.f, written)
}

// eachChanged calls fn with the pages of the guest's memory that are not the base's any more,
// some at a time.
func (v *vmm) eachChanged(ctx context.Context, fn func([]sys.PageRun) error) error {
	m, _, err := v.guestMemory(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	return atrest.EachChanged(ctx, m, int64(v.spec.MemMiB)<<20/sys.PageSize, fn)
}

// trimStep is by how much a VMM's memory grows until pages of its base are given back that the
// guest has changed since: they are in memory twice.
const trimStep = 32 << 20

// trim gives such pages back where the VMM's memory has grown to so many bytes. Without it
// nothing is wrong, and memory is wasted.
func (v *vmm) trim(ctx context.Context, rss int64) {
	if !v.cmd.TryLock() {
		return
	}
	defer v.cmd.Unlock()
	v.mu.Lock()
	f := v.base
	v.mu.Unlock()
	if f == nil || rss < v.trimmed+trimStep {
		return
	}
	v.trimmed = rss
	err := v.eachChanged(ctx, func(runs []sys.PageRun) error { return sys.Punch(f, runs) })
	if err != nil {
		v.d.log.Debug("give memory back", "instance", v.spec.ID, "error", err)
	}
}

// setBase has the VMM's base held here, nil: no more.
func (v *vmm) setBase(f *os.File) {
	v.mu.Lock()
	was := v.base
	v.base = f
	v.mu.Unlock()
	if was != nil {
		_ = was.Close()
	}
}

// copyPages puts pages of the file into the memory.
func copyPages(ctx context.Context, m vmproc.Memory, f *os.File, runs []sys.PageRun) error {
	buf := make([]byte, 1<<20)
	for _, r := range runs {
		for r.Count > 0 {
			part := sys.PageRun{Page: r.Page, Count: min(r.Count, int64(len(buf)/sys.PageSize))}
			data := buf[:part.Count*sys.PageSize]
			if _, err := f.ReadAt(data, part.Page*sys.PageSize); err != nil {
				return mvm.Errorf(mvm.KindUnavailable, "read the guest's memory: %w", err)
			}
			if err := m.Write(ctx, []sys.PageRun{part}, data); err != nil {
				return err
			}
			r.Page, r.Count = r.Page+part.Count, r.Count-part.Count
		}
	}
	return nil
}
