package hostd

import (
	"context"
	"os"
	"sync"
	"syscall"
	"time"

	"mvm"
	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
)

var _ vmproc.Launcher = (*VMMs)(nil)

// VMMs is the launcher of a process without rights, for one kind of VMM.
type VMMs struct {
	c    *Client
	kind vmmKind
}

// VMMs returns the part of the Client that VMMs of the kind need.
func (c *Client) VMMs(kind string) *VMMs {
	if kind == firstKind {
		kind = "" // as a server of an older mvm understands it
	}
	return &VMMs{c, vmmKind{kind}}
}

// launchTimeout bounds a Launch, which takes some milliseconds.
const launchTimeout = 20 * time.Second

// Launch is described at vmproc.Launcher. It is not given up half-way: then nobody would
// know whether there is a VMM. The server takes this process for the owner of the files.
func (h *VMMs) Launch(ctx context.Context, l vmproc.Launch) (vmproc.Process, []string, error) {
	if ctx.Err() != nil {
		return nil, nil, mvm.Errorf(mvm.KindCanceled, "start the VMM of %s: %w", l.ID, context.Cause(ctx))
	}
	lctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), launchTimeout)
	defer cancel()
	a, got, err := call[processAnswer](lctx, h.c, opStart, launchRequest{h.kind, l}, l.Files)
	if err == nil {
		var p vmproc.Process
		if p, err = h.hold(l.Name, l.UID, a, got); err == nil {
			return p, a.Cgroups, nil
		}
	}
	if k := mvm.KindOf(err); k == mvm.KindUnavailable || k == mvm.KindTimeout {
		h.giveUp(ctx, l) // it may have been started all the same
	}
	return nil, nil, err
}

// giveUp ends the VMM of a Launch whose answer did not come.
func (h *VMMs) giveUp(ctx context.Context, l vmproc.Launch) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	p, err := h.Find(ctx, l.Name, vmproc.Hint{})
	if err != nil {
		return // none, or the next Recover or Destroy finds it
	}
	defer p.Close()
	defer context.AfterFunc(ctx, p.Interrupt)()
	if p.Kill(ctx) == nil {
		_, _, _, _ = p.Wait()
	}
	_ = h.Leave(ctx, l.Name, l.Cgroup, nil)
}

// hold makes a Process of an answer.
func (h *VMMs) hold(n vmproc.Name, uid int, a processAnswer, files []*os.File) (vmproc.Process, error) {
	if len(files) != 1 {
		return nil, mvm.Errorf(mvm.KindUnavailable, "read the answer of mvm hostd: it has no process")
	}
	p, err := sys.AdoptProcess(files[0], a.PID, a.Start)
	if err != nil {
		return nil, err
	}
	return &process{Process: p, h: h, name: n, uid: uid}, nil
}

// Find is described at vmproc.Host.
func (h *VMMs) Find(ctx context.Context, n vmproc.Name, hint vmproc.Hint) (vmproc.Process, error) {
	a, got, err := call[processAnswer](ctx, h.c, opFind, vmmRequest{h.kind, n, hint}, nil)
	if err != nil {
		return nil, err
	}
	return h.hold(n, hint.UID, a, got)
}

// List is described at vmproc.Host.
func (h *VMMs) List(ctx context.Context, root string) ([]vmproc.Name, error) {
	a, _, err := call[listAnswer](ctx, h.c, opList, listRequest{h.kind, root}, nil)
	return a.Names, err
}

// Survey is described at vmproc.Host.
func (h *VMMs) Survey(ctx context.Context) (vmproc.Survey, error) {
	s, _, err := call[vmproc.Survey](ctx, h.c, opSurvey, surveyRequest{h.kind}, nil)
	return s, err
}

// Walls is described at vmproc.Host.
func (h *VMMs) Walls(ctx context.Context) ([]mvm.Finding, error) {
	a, _, err := call[wallsAnswer](ctx, h.c, opWalls, surveyRequest{h.kind}, nil)
	return a.Missing, err
}

// Leave is described at vmproc.Host. The server knows the cgroups itself.
func (h *VMMs) Leave(ctx context.Context, n vmproc.Name, cgroup string, _ []string) error {
	_, _, err := call[none](ctx, h.c, opLeave, leaveRequest{h.kind, n, cgroup}, nil)
	return err
}

// process is a VMM that the server has started or found. Its end is seen without the
// server.
type process struct {
	*sys.Process
	h    *VMMs
	name vmproc.Name
	uid  int // 0: not known

	mu      sync.Mutex
	refused string
}

func (p *process) ID() (int, uint64) { return p.PID, p.Start }

func (p *process) request() vmmRequest {
	return vmmRequest{p.h.kind, p.name, vmproc.Hint{PID: p.PID, Start: p.Start, UID: p.uid}}
}

func (p *process) Kill(ctx context.Context) error {
	_, _, err := call[none](ctx, p.h.c, opKill, p.request(), nil)
	return err
}

// exitTimeout bounds the question how a VMM ended, which needs no work.
const exitTimeout = 5 * time.Second

// Wait waits for the end, and asks the server, its parent, how it was.
func (p *process) Wait() (code int, sig syscall.Signal, known bool, err error) {
	if code, sig, known, err := p.Process.Wait(); known || err != nil {
		return code, sig, known, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), exitTimeout)
	defer cancel()
	a, _, err := call[exitAnswer](ctx, p.h.c, opExit, p.request(), nil)
	if err != nil {
		return 0, 0, false, nil //nolint:nilerr // it has ended, and nobody knows how
	}
	p.mu.Lock()
	p.refused = a.Refused
	p.mu.Unlock()
	return a.Code, syscall.Signal(a.Signal), a.Known, nil
}

// Refused is described at vmproc.Process.
func (p *process) Refused() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused
}

// LimitCPU is described at vmproc.Process.
func (p *process) LimitCPU(ctx context.Context, c vmproc.CPU) error {
	_, _, err := call[none](ctx, p.h.c, opLimitCPU, cpuRequest{p.request(), c}, nil)
	return err
}

func (p *process) Stats() (sys.ProcessStats, error) {
	ctx, cancel := context.WithTimeout(context.Background(), exitTimeout)
	defer cancel()
	a, _, err := call[statsAnswer](ctx, p.h.c, opStats, p.request(), nil)
	return sys.ProcessStats{CPU: a.CPU, RSS: a.RSS, Throttled: a.Throttled}, err
}
