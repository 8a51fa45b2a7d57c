package agent_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/sys"
)

// fileOps counts what is done in the folders of a host, and fails one of the operations.
type fileOps struct {
	mu   sync.Mutex
	all  []string
	fail int // the number of the one to fail; -1: none
	err  error
}

func (f *fileOps) see(op sys.FolderOp, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, fmt.Sprintf("%s %s", op, name))
	if len(f.all)-1 == f.fail {
		return f.err
	}
	return nil
}

// arm has the operation of that number fail, of those from now on.
func (f *fileOps) arm(n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all, f.fail, f.err = nil, n, err
}

// failed names the operation that failed, "" where there were not that many.
func (f *fileOps) failed() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail < 0 || f.fail >= len(f.all) {
		return ""
	}
	return f.all[f.fail]
}

// watched are the hosts whose folders are watched, by what the paths in them begin with.
type watched struct{ hosts sync.Map }

func watchFolders(t *testing.T) *watched {
	w := &watched{}
	sys.SeamFolders(w.see)
	t.Cleanup(func() { sys.SeamFolders(nil) })
	return w
}

func (w *watched) see(op sys.FolderOp, path string) (err error) {
	w.hosts.Range(func(dir, ops any) bool {
		name, ok := strings.CutPrefix(path, dir.(string))
		if ok {
			err = ops.(*fileOps).see(op, name)
		}
		return !ok
	})
	return err
}

// host is a host whose folders of instances are watched.
func (w *watched) host(t *testing.T) (*host, *fileOps) {
	h := suspending(t, fake.Behavior{})
	ops := &fileOps{fail: -1}
	w.hosts.Store(filepath.Join(h.dir, "instances"), ops)
	w.hosts.Store(filepath.Join(h.run, "i"), ops)
	return h, ops
}

// oneFileFlows are what an instance goes through while one operation fails.
var oneFileFlows = []struct {
	prepare []mvm.OpKind
	op      mvm.OpKind
	keeps   bool // what the guest has in memory is there at the end
}{
	{nil, mvm.OpSleep, true},
	{[]mvm.OpKind{mvm.OpSleep, mvm.OpWake}, mvm.OpSleep, true},
	{[]mvm.OpKind{mvm.OpSleep}, mvm.OpWake, true},
	{[]mvm.OpKind{mvm.OpSleep, mvm.OpWake, mvm.OpSleep}, mvm.OpWake, true},
	{nil, mvm.OpStop, false},
	{[]mvm.OpKind{mvm.OpStop}, mvm.OpStart, false},
	{[]mvm.OpKind{mvm.OpSleep}, mvm.OpStop, false},
	{[]mvm.OpKind{mvm.OpSleep}, mvm.OpDestroy, false},
	{nil, mvm.OpDestroy, false},
}

// TestOneFileOperationFails: whichever operation in an instance's folders fails, once, while
// the instance changes: what was asked for ends well when it is asked for again, also by a
// new agent, no memory is lost over it, and no file is left behind.
func TestOneFileOperationFails(t *testing.T) {
	w := watchFolders(t)
	t.Run("flows", func(t *testing.T) {
		for _, c := range oneFileFlows {
			name := strings.ReplaceAll(fmt.Sprintf("%v-%s", c.prepare, c.op), " ", "-")
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				h, ops := w.host(t)
				i := h.do(h.instance().ID, mvm.OpStart)
				for n, failed := 0, "any"; failed != ""; n++ {
					if c.op == mvm.OpDestroy && n > 0 {
						i = h.another()
					}
					fault := []error{syscall.ENOSPC, syscall.EMFILE, syscall.EIO}[n%3]
					failed = h.failOne(i.ID, c.prepare, c.op, c.keeps, ops, n, fault)
				}
			})
		}
	})
}

// another is a further instance, which runs.
func (h *host) another() mvm.Instance {
	h.t.Helper()
	i, err := h.a.CreateInstance(ctx(h.t), "acme", "workers", "")
	if err != nil {
		h.t.Fatal(err)
	}
	return h.do(i.ID, mvm.OpStart)
}

// failOne has operation n of those in the folders fail, and returns its name. Afterwards the
// instance runs, unless it was to be destroyed.
func (h *host) failOne(id string, prepare []mvm.OpKind, op mvm.OpKind, keeps bool, ops *fileOps, n int, fault error) string {
	boot := h.boot(id)
	for _, p := range prepare {
		h.do(id, p)
	}
	ops.arm(n, fault)
	err := h.try(id, op)
	failed := ops.failed()
	ops.arm(-1, nil)
	at := fmt.Sprintf("%s (%v, then %v)", failed, fault, err)
	if n%4 == 1 {
		h.stop()
		h.start()
	}
	if op == mvm.OpDestroy {
		h.wantDestroyed(id, at)
		return failed
	}
	if err := h.try(id, op); err != nil {
		h.t.Errorf("%s: again: %v", at, err)
		return ""
	}
	h.wantWhole(id, at, boot, keeps)
	return failed
}

func (h *host) wantDestroyed(id, at string) {
	h.t.Helper()
	if err := h.try(id, mvm.OpDestroy); err != nil && !mvm.IsKind(err, mvm.KindNotFound) {
		h.t.Errorf("%s: destroyed again: %v", at, err)
	}
	for _, dir := range []string{filepath.Join(h.dir, "instances"), filepath.Join(h.run, "i")} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			h.t.Errorf("%s: %s is left after the instance was destroyed", at, filepath.Join(dir, e.Name()))
		}
	}
}

// wantWhole looks at the instance once it has what was asked for: it runs at last, and asleep
// it has the files that any sleeper has.
func (h *host) wantWhole(id, at, boot string, keeps bool) {
	h.t.Helper()
	got := h.do(id, mvm.OpStart)
	if got.Op != nil || got.Problem != "" {
		h.t.Errorf("%s: at the end it has op %+v and problem %q", at, got.Op, got.Problem)
	}
	if keeps && h.boot(id) != boot {
		h.t.Errorf("%s: its memory is lost: %s", at, got.Last.Reason)
	}
	h.do(id, mvm.OpSleep)
	if snaps := h.snapshots(id); len(snaps) > 0 {
		h.t.Errorf("%s: set aside: %+v", at, snaps)
	}
	if names := h.names(id); !slices.Equal(names, sleeperNames) {
		h.t.Errorf("%s: asleep it has %v, want %v", at, names, sleeperNames)
	}
	h.do(id, mvm.OpWake)
}

// sleeperNames is what the folder of a sleeper has.
var sleeperNames = []string{"data.img", "segments", "snapshots"}

// names is what the instance's folder has.
func (h *host) names(id string) []string {
	names := map[string]bool{}
	entries, err := os.ReadDir(filepath.Join(h.dir, "instances", id))
	if err != nil {
		h.t.Error(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".jsonl") { // logs
			names[e.Name()] = true
		}
	}
	delete(names, "console.log")
	return slices.Sorted(maps.Keys(names))
}
