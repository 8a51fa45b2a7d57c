package atrest

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/snapshot/sealed"
	"mvm/internal/snapshot/segment"
	"mvm/internal/sys"
)

// Snapshot is a snapshot that is open, to be restored: its files, or what is ready of it.
type Snapshot struct {
	id     string
	device []byte
	files  *segment.Snapshot // nil: it is ready
	memory *os.File          // in which it is ready
}

// Open opens a snapshot of an instance with so much memory. What is ready of it is used if it is
// of just this snapshot, as its map says, and then no segment is read. An error that is about the
// snapshot itself is a driver.SnapshotError.
func Open(dir string, snap driver.Snapshot, memMiB int) (*Snapshot, error) {
	if s := openReady(dir, snap, memMiB); s != nil {
		return s, nil
	}
	return openFiles(dir, snap, memMiB, 0)
}

// openReady opens what is ready of a snapshot; nil where nothing is, or in doubt.
func openReady(dir string, snap driver.Snapshot, memMiB int) *Snapshot {
	r := snap.Ready
	if r == nil || r.Snapshot != snap.ID || r.MemMiB != memMiB {
		return nil
	}
	id := ""
	err := in(dir, snap, func(p segment.Place) error {
		m, err := p.ReadMap(pagesOf(memMiB))
		if err == nil {
			id = m.ID()
		}
		return err
	})
	if err != nil || id != r.Map {
		return nil
	}
	f := r.Take()
	if f == nil {
		return nil
	}
	return &Snapshot{id: id, device: r.Device, memory: f}
}

// openFiles opens the files of a snapshot. So many goroutines read them at most; 0: one for each
// processor.
func openFiles(dir string, snap driver.Snapshot, memMiB, workers int) (*Snapshot, error) {
	var s *segment.Snapshot
	err := in(dir, snap, func(p segment.Place) (err error) {
		p.Workers = workers
		s, err = p.Load(segment.Digest{}, pagesOf(memMiB))
		return err
	})
	if errors.Is(err, fs.ErrNotExist) { // a folder of it
		err = sealed.Bad(sealed.Missing, snap.State, "%w", err)
	}
	if err != nil {
		return nil, told(err)
	}
	return &Snapshot{id: s.Map().ID(), device: s.Device(), files: s}, nil
}

// Device is the state of the devices.
func (s *Snapshot) Device() []byte { return s.device }

// ID tells the snapshot from all others by its content.
func (s *Snapshot) ID() string { return s.id }

// Memory is the file in memory that has all pages already, which the caller closes; nil where
// there is none, and Fill is to be called.
func (s *Snapshot) Memory() *os.File {
	f := s.memory
	s.memory = nil
	return f
}

// Close lets go of the files.
func (s *Snapshot) Close() (err error) {
	if s.memory != nil {
		err = s.memory.Close()
	}
	if s.files != nil {
		err = errors.Join(err, s.files.Close())
	}
	return err
}

// Fill verifies the snapshot's pages and puts them into memory of zeros.
func (s *Snapshot) Fill(ctx context.Context, memory io.WriterAt) error {
	return told(s.files.Inject(ctx, func(_ context.Context, pieces []segment.Piece) error {
		for _, p := range pieces {
			if _, err := memory.WriteAt(p.Data, int64(p.Page)*sys.PageSize); err != nil {
				return mvm.Errorf(mvm.KindUnavailable, "fill the guest's memory: %w", err)
			}
		}
		return nil
	}))
}

// MemoryName is what files in memory are called that have guests' memory.
const MemoryName = "guest-memory"

// All has MakeReady make any snapshot ready.
func All(int64) error { return nil }

// MakeReady reads and verifies a snapshot, so that the next Restore finds it ready. admit is called
// before with the bytes of memory that it will take, and an error of it ends that. It uses one
// processor: whoever waits for a wake comes first.
func MakeReady(ctx context.Context, dir string, snap driver.Snapshot, memMiB int, admit func(bytes int64) error) (_ *driver.Ready, err error) {
	s, err := openFiles(dir, snap, memMiB, 1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	need := int64(s.files.Map().Live())*sys.PageSize + int64(len(s.device))
	if err := admit(need); err != nil {
		return nil, err
	}
	f, err := sys.NewMemoryFile(MemoryName, int64(memMiB)<<20)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "make a snapshot ready: %w", err)
	}
	if err := s.Fill(ctx, f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	r := &driver.Ready{Snapshot: snap.ID, Map: s.id, MemMiB: memMiB, Device: s.device, Bytes: need}
	return r.Over(f), nil
}
