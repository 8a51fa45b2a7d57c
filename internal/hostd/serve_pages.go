package hostd

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
)

// maxCopies bounds the copies of pages under way: each has a buffer of its own.
const maxCopies = 4

// memory calls fn with the guest's memory of the very VMM of the request.
func (s *Server) memory(ctx context.Context, v vmmRequest, g vmproc.Guest, fn func(vmproc.Memory) (reply, error)) (reply, error) {
	return s.held(ctx, v, func(p vmproc.Process) (reply, error) {
		m, err := p.Memory(ctx, g)
		if err != nil {
			return reply{}, err
		}
		defer m.Close()
		return fn(m)
	})
}

// changed lists pages that the guest has written.
func (s *Server) changed(ctx context.Context, c changedRequest) (reply, error) {
	return s.memory(ctx, c.vmmRequest, c.Guest, func(m vmproc.Memory) (reply, error) {
		if c.Pages == 0 || m.Shared() {
			return reply{body: changedAnswer{Shared: m.Shared()}}, nil
		}
		runs, next, err := m.Changed(ctx, c.From, c.Pages)
		return reply{body: changedAnswer{Runs: runs, Next: next}}, err
	})
}

// copyPages copies pages of the guest to the file that came, or from there.
func (s *Server) copyPages(ctx context.Context, p pagesRequest, r request) (reply, error) {
	n, err := countPages(p.Runs)
	if err == nil && len(r.files) != 1 {
		err = mvm.Errorf(mvm.KindInvalid, "read request: pages with %d files", len(r.files))
	}
	if err != nil {
		return reply{}, err
	}
	select {
	case s.pages <- struct{}{}:
		defer func() { <-s.pages }()
	case <-ctx.Done():
		return reply{}, mvm.Errorf(mvm.KindTimeout, "wait for other copies of pages: %w", context.Cause(ctx))
	}
	f, buf := r.files[0], make([]byte, n*sys.PageSize)
	return s.memory(ctx, p.vmmRequest, p.Guest, func(m vmproc.Memory) (reply, error) {
		if r.op == opWrite {
			err := memoryFile(f, func() error { _, err := f.ReadAt(buf, 0); return err })
			if err == nil {
				err = m.Write(ctx, p.Runs, buf)
			}
			return reply{body: none{}}, err
		}
		err := m.Read(ctx, p.Runs, buf)
		if err == nil {
			err = memoryFile(f, func() error { _, err := f.WriteAt(buf, 0); return err })
		}
		return reply{body: none{}}, err
	})
}

// countPages counts the pages of a caller that is not trusted.
func countPages(runs []sys.PageRun) (int, error) {
	const most = vmproc.MaxWindow / sys.PageSize
	n := int64(0)
	for _, r := range runs {
		if r.Count < 1 || r.Count > most-n {
			return 0, mvm.Errorf(mvm.KindInvalid, "read request: more than %d pages", most)
		}
		n += r.Count
	}
	return int(n), nil
}

// memoryFile does the copy to or from a file that is in memory, as its seals show: others
// may take as long as they like.
func memoryFile(f *os.File, copy func() error) error {
	err := errors.New("a file that is not in memory")
	raw, cerr := f.SyscallConn()
	if cerr == nil {
		cerr = raw.Control(func(fd uintptr) { _, err = unix.FcntlInt(fd, unix.F_GET_SEALS, 0) })
	}
	if err = errors.Join(cerr, err); err == nil {
		err = copy()
	}
	if err != nil {
		return mvm.Errorf(mvm.KindInvalid, "copy pages: %w", fmt.Errorf("the file that came: %w", err))
	}
	return nil
}
