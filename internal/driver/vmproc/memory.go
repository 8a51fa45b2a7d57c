package vmproc

import (
	"context"
	"errors"
	"io/fs"

	"mvm"
	"mvm/internal/sys"
)

// MaxWindow is the largest part of a guest's memory that is read or written at once.
const MaxWindow = 8 << 20

// Guest says which memory of a VMM is its guest's: where it maps the file with the inode,
// as a whole. Nothing else of the VMM is read or written.
type Guest struct {
	Inode uint64 `json:"inode"`
	Bytes int64  `json:"bytes"`
}

// MaxChanged is how many pages are listed at once at most.
const MaxChanged = 64 << 10

// Memory is a guest's memory in its VMM, whose vCPUs have to be paused. Many goroutines may
// use it. A VMM that was taken over can give whatever it likes, and hold its reader up.
type Memory interface {
	// Shared reports that the file has what the guest writes: there is nothing to read.
	Shared() bool
	// Changed lists the pages, from one on, that the guest has written since the file was
	// mapped: at most so many, and at most MaxChanged. next is the page to go on from, and
	// past the last page the number of all.
	Changed(ctx context.Context, from int64, most int) (runs []sys.PageRun, next int64, err error)
	// Read reads the pages into buf, one run after the other; at most MaxWindow bytes.
	Read(ctx context.Context, runs []sys.PageRun, buf []byte) error
	// Write writes the pages, of which data has one run after the other.
	Write(ctx context.Context, runs []sys.PageRun, data []byte) error
	Close() error
}

// Memory is described at Process.
func (p local) Memory(_ context.Context, g Guest) (Memory, error) {
	if err := g.Check(); err != nil {
		return nil, err
	}
	m, err := p.OpenMapping(g.Inode, g.Bytes)
	if errors.Is(err, fs.ErrPermission) {
		return nil, mvm.Errorf(mvm.KindUnavailable, "open the guest's memory: %w", err).
			WithFix("let mvm trace its VMMs: it needs CAP_SYS_PTRACE and CAP_SETUID, and the sysctl kernel.yama.ptrace_scope below 3")
	}
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "open the guest's memory: %w", err)
	}
	return localMemory{m}, nil
}

// Check refuses memory that no VMM has.
func (g Guest) Check() error {
	if g.Inode == 0 || g.Bytes <= 0 || g.Bytes%sys.PageSize != 0 {
		return mvm.Errorf(mvm.KindInvalid, "open the guest's memory: inode %d, %d bytes", g.Inode, g.Bytes)
	}
	return nil
}

type localMemory struct{ m *sys.Mapping }

func (m localMemory) Shared() bool { return m.m.Shared }

// Close is described at Memory.
func (m localMemory) Close() error { return m.m.Close() }

// Changed is described at Memory.
func (m localMemory) Changed(ctx context.Context, from int64, most int) ([]sys.PageRun, int64, error) {
	if err := checkWindow(ctx, "read", nil); err != nil {
		return nil, 0, err
	}
	if from < 0 || most < 1 || most > MaxChanged {
		return nil, 0, mvm.Errorf(mvm.KindInvalid, "list the guest's pages: %d from page %d", most, from)
	}
	runs, next, err := m.m.Changed(from, int64(most))
	if err != nil {
		return nil, 0, mvm.Errorf(mvm.KindUnavailable, "list the guest's pages: %w", err)
	}
	return runs, next, nil
}

// Read is described at Memory.
func (m localMemory) Read(ctx context.Context, runs []sys.PageRun, buf []byte) error {
	if err := checkWindow(ctx, "read", buf); err != nil {
		return err
	}
	if err := m.m.Read(runs, buf); err != nil {
		return mvm.Errorf(mvm.KindUnavailable, "read the guest's memory: %w", err)
	}
	return nil
}

// Write is described at Memory.
func (m localMemory) Write(ctx context.Context, runs []sys.PageRun, data []byte) error {
	if err := checkWindow(ctx, "write", data); err != nil {
		return err
	}
	if m.m.Shared { // the file is not to be touched
		return mvm.Errorf(mvm.KindState, "write the guest's memory: its VMM shares it with a file")
	}
	if err := m.m.Write(runs, data); err != nil {
		return mvm.Errorf(mvm.KindUnavailable, "write the guest's memory: %w", err)
	}
	return nil
}

func checkWindow(ctx context.Context, verb string, buf []byte) error {
	if ctx.Err() != nil {
		return mvm.Errorf(mvm.KindTimeout, "%s the guest's memory: %w", verb, context.Cause(ctx))
	}
	if len(buf) > MaxWindow || len(buf)%sys.PageSize != 0 {
		return mvm.Errorf(mvm.KindInvalid, "%s the guest's memory: %w", verb, errors.New("no whole pages, or too many"))
	}
	return nil
}
