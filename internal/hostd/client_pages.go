package hostd

import (
	"context"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
)

// memory is a guest's memory, which the server reads and writes. Its pages go through a
// file that is in memory only.
type memory struct {
	p      *process
	guest  vmproc.Guest
	shared bool

	mu     sync.Mutex // held while the window is in use
	window *os.File
}

// Memory is described at vmproc.Process.
func (p *process) Memory(ctx context.Context, g vmproc.Guest) (vmproc.Memory, error) {
	a, _, err := call[changedAnswer](ctx, p.h.c, opChanged, changedRequest{vmmRequest: p.request(), Guest: g}, nil)
	if mvm.IsKind(err, mvm.KindInvalid) {
		return nil, mvm.Errorf(mvm.KindState, "open the guest's memory: mvm hostd at %s is from an older mvm version: %w", p.h.c.path, err).
			WithFix("restart it: systemctl restart mvm-hostd")
	}
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("pages", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "open the guest's memory: %w", err)
	}
	return &memory{p: p, guest: g, shared: a.Shared, window: os.NewFile(uintptr(fd), "pages")}, nil
}

func (m *memory) Shared() bool { return m.shared }

// Close is described at vmproc.Memory.
func (m *memory) Close() error { return m.window.Close() }

// Changed is described at vmproc.Memory.
func (m *memory) Changed(ctx context.Context, from int64, most int) ([]sys.PageRun, int64, error) {
	req := changedRequest{vmmRequest: m.p.request(), Guest: m.guest, From: from, Pages: most}
	a, _, err := call[changedAnswer](ctx, m.p.h.c, opChanged, req, nil)
	return a.Runs, a.Next, err
}

// Read is described at vmproc.Memory.
func (m *memory) Read(ctx context.Context, runs []sys.PageRun, buf []byte) error {
	n, err := countPages(runs)
	if err != nil || n == 0 {
		return err
	}
	if len(buf) < n*sys.PageSize {
		return mvm.Errorf(mvm.KindInvalid, "read the guest's memory: %d pages into %d bytes", n, len(buf))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.copy(ctx, opRead, runs); err != nil {
		return err
	}
	if _, err := m.window.ReadAt(buf[:n*sys.PageSize], 0); err != nil {
		return mvm.Errorf(mvm.KindUnavailable, "read the guest's memory: %w", err)
	}
	return nil
}

// Write is described at vmproc.Memory.
func (m *memory) Write(ctx context.Context, runs []sys.PageRun, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.window.WriteAt(data, 0); err != nil {
		return mvm.Errorf(mvm.KindUnavailable, "write the guest's memory: %w", err)
	}
	return m.copy(ctx, opWrite, runs)
}

// copy has the server copy the pages between the guest and the window.
func (m *memory) copy(ctx context.Context, o op, runs []sys.PageRun) error {
	_, _, err := call[none](ctx, m.p.h.c, o, pagesRequest{m.p.request(), m.guest, runs}, []*os.File{m.window})
	return err
}
