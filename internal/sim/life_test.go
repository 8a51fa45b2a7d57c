package sim_test

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing/synctest"
	"time"

	"mvm/internal/agent"
	"mvm/internal/driver/fake"
	"mvm/internal/policy"
	"mvm/internal/ready"
	"mvm/internal/store"
	"mvm/internal/sys"
)

// life is one run of the agent on the host, from its start until it ends or dies.
type life struct {
	w  *world
	n  int
	a  *agent.Agent
	st *store.Store

	dead   atomic.Bool // it died: nothing of it acts any more
	ending bool        // it was told to end
	ctx    context.Context
	cancel context.CancelFunc

	mu     sync.Mutex
	files  []*os.File // that its death closes
	opened bool       // Open is done
	failed error      // Open failed
	closed bool       // all of it is gone
}

// dieIfDead ends the goroutine when its agent has died.
func (l *life) dieIfDead() {
	if l != nil && l.dead.Load() {
		runtime.Goexit()
	}
}

func (l *life) hold(f *os.File) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.files = append(l.files, f)
}

// is reads a field of l that a goroutine of it sets.
func (l *life) is(flag *bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return *flag
}

func (l *life) set(fn func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fn()
}

// nodeID is the host's name.
const nodeID = "sim"

// boot starts an agent on the host as it is. Open runs on its own.
func (w *world) boot() {
	w.lives++
	l := &life{w: w, n: w.lives}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	w.life = l
	w.note("agent %d starts", l.n)
	var err error
	w.s.alone(func() {
		l.st, err = store.OpenWith(filepath.Join(w.dir, "state.db"), store.Options{Seam: l.storeSeam})
	})
	if err != nil {
		w.fail("open store: %v", err)
		return
	}
	l.a = agent.New(agent.Options{DataDir: w.dir, RunDir: w.run, Version: "sim", NodeID: nodeID, Store: l.st,
		Driver: fake.New(w.host, fake.Options{Hook: l.driverHook}), Network: nets{l}, Images: images{l}, Sealer: w.key,
		Publisher: noPublisher{}, MakeDisk: l.makeDisk, Log: slog.New(&traceLog{w: w}), Seam: l.seam, Rand: w.ids,
		ListenHost: func(d *sys.Folder, name string) (net.Listener, error) {
			return w.socks.listen(l, filepath.Join(d.Path(), name))
		},
		HostMemory: func() (policy.Memory, error) {
			return policy.Memory{TotalMiB: 16384, AvailableMiB: 12288, Stalled: -1}, nil
		},
		Ready:    ready.Limits{Percent: 10, TenantPercent: 50, Keep: 10*time.Minute + 541},
		Timeouts: agent.Timeouts{Boot: 20*time.Second + 137, Ready: 30*time.Second + 211, Gate: 3*time.Second + 331, Call: 2*time.Second + 433}})
	go func() {
		err := l.a.Open(l.ctx)
		l.set(func() { l.opened, l.failed = err == nil, err })
	}()
}

// seam is a named point of an operation.
func (l *life) seam(name, id string) error {
	v := l.w.s.park(l, atSeam, name, id)
	return v.err
}

// storeSeam parks before a transaction. What becomes of an update is decided there,
// and happens at its commit.
func (l *life) storeSeam(op string) error {
	switch op {
	case store.SeamBegin, store.SeamView:
		return l.w.s.park(l, atStore, op, "").err
	case store.SeamCommit:
		switch fate := l.w.takeFate(fateFull, fateDieBefore); fate {
		case fateFull:
			return syscall.ENOSPC
		case fateDieBefore:
			l.kill("before a commit")
		}
	case store.SeamCommitted:
		l.w.dirty.Store(true)
		if l.w.takeFate(fateDieAfter) == fateDieAfter {
			l.kill("after a commit")
		}
	}
	return nil
}

// kill has the agent die in the goroutine that calls it.
func (l *life) kill(where string) {
	l.dead.Store(true)
	l.w.diedAt(where)
	runtime.Goexit()
}

// bury lets go of all that a dead agent held, as the kernel does: its goroutines end
// where they are, its sockets and files close. It goes on by itself; see closed.
func (w *world) bury(l *life) {
	l.dead.Store(true)
	l.cancel()
	w.socks.dropLife(l)
	for _, p := range w.s.points() {
		if p.life == l {
			w.s.release(p, verdict{})
		}
	}
	go func() {
		defer l.set(func() { l.closed = true })
		defer func() { _ = l.st.Close() }()
		defer func() {
			l.set(func() {
				for _, f := range l.files {
					_ = f.Close()
				}
			})
		}()
		_ = l.a.Close()
	}()
}

// end ends the agent in good order.
func (w *world) end(l *life) {
	w.note("agent %d ends", l.n)
	l.cancel()
	synctest.Wait() // who waits for a command goes first
	go func() {
		defer l.set(func() { l.closed = true })
		if err := l.a.Close(); err != nil && !l.dead.Load() {
			w.failLater("close agent: %v", err)
		}
		if err := l.st.Close(); err != nil && !l.dead.Load() {
			w.failLater("close store: %v", err)
		}
	}()
}
