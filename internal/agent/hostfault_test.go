package agent_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/network/fakenet"
	"mvm/internal/store"
)

// hostFaults are what a host can lack when an instance is to wake.
func hostFaults() []error {
	return []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EAGAIN, syscall.EROFS, syscall.EIO,
		&os.PathError{Op: "fork/exec", Path: "/usr/bin/vmm", Err: syscall.ENOENT}}
}

// faulty is a host on which one thing can be made to fail.
type faulty struct {
	*host
	op    atomic.Value // fake.Op
	fault atomic.Pointer[error]
}

func newFaulty(t *testing.T) *faulty {
	f := &faulty{host: newHost(t)}
	f.op.Store(fake.Op(""))
	f.opt.Fail = func(op fake.Op, _ string) error {
		if err := f.fault.Load(); err != nil && op == f.op.Load() {
			return *err
		}
		return nil
	}
	f.start()
	return f
}

// at makes the named seam or operation of the driver fail, or the TAP where it is that.
func (f *faulty) at(point string, err error) {
	if op := fake.Op(strings.TrimPrefix(point, "driver.")); string(op) != point {
		f.op.Store(op)
		f.fault.Store(&err)
		return
	}
	if point == "tap" {
		f.net.Fail(fakenet.OpOpenTAP, err, -1)
		return
	}
	f.onSeam(func(p string) error {
		if p == point {
			return fmt.Errorf("%s: %w", p, err)
		}
		return nil
	})
}

func (f *faulty) mend() {
	f.fault.Store(nil)
	f.onSeam(nil)
	f.net.Fail(fakenet.OpOpenTAP, nil, 0)
}

// TestHostFaultAtEveryStepOfAWake: whatever the host lacks, and at whatever step of a
// wake: the wake fails and says what to do, and the next one finds the memory as it was.
func TestHostFaultAtEveryStepOfAWake(t *testing.T) {
	at := []string{"tap", "driver.info", "driver.restore", "driver.restore.load", "driver.resume"}
	for _, p := range points(t, mvm.OpWake, mvm.OpSleep) {
		if strings.HasPrefix(p, "wake.") && !strings.HasPrefix(p, "wake.begin") {
			at = append(at, p)
		}
	}
	if len(at) < 5+2*8 {
		t.Fatalf("a wake passes %v only", at)
	}
	for _, fault := range hostFaults() {
		t.Run(strings.ReplaceAll(fault.Error(), " ", "-"), func(t *testing.T) {
			t.Parallel()
			f := newFaulty(t)
			i := f.instance()
			boot := f.boot(i.ID)
			for _, point := range at {
				f.wakeFails(i.ID, boot, point, fault)
			}
		})
	}
}

// wakeFails has a wake fail at the point, and the next one be warm.
func (f *faulty) wakeFails(id, boot, point string, fault error) {
	f.t.Helper()
	f.do(id, mvm.OpSleep)
	f.at(point, fault)
	err := f.try(id, mvm.OpWake)
	if !errors.Is(err, fault) {
		f.t.Errorf("%s: wake: %v, want the host's fault", point, err)
	}
	kept := f.get(id)
	switch {
	case kept.Op != nil || kept.State == mvm.StateRunning: // its guest runs, and is let in later
		if len(f.host.host.VMMs()) != 1 {
			f.t.Errorf("%s: it is %s with op %v, and has no VMM", point, kept.State, kept.Op)
		}
	case kept.State != mvm.StateSleeping || kept.Snapshot == nil || kept.Snapshot.Consumed:
		f.t.Errorf("%s: it is %s with snapshot %+v, want asleep as before", point, kept.State, kept.Snapshot)
	case !strings.Contains(err.Error(), "(") || !strings.Contains(kept.Problem, "stays asleep"):
		f.t.Errorf("%s: error %q and problem %q, want what to do", point, err, kept.Problem)
	}
	f.mend()
	got := f.do(id, mvm.OpWake)
	if got.State != mvm.StateRunning || got.Op != nil || got.Last.Kind != "warm" || got.Problem != "" {
		f.t.Errorf("%s: after the fault it is %s by %q (%s) with problem %q, want warm", point, got.State, got.Last.Kind, got.Last.Reason, got.Problem)
	}
	if f.boot(id) != boot {
		f.t.Fatalf("%s: the guest was booted again: its memory is lost", point)
	}
}

// TestRequestsWaitWhileTheHostCannotWake: what requests ask for is not tried all the time
// while the host can't do it; a person is obeyed at once.
func TestRequestsWaitWhileTheHostCannotWake(t *testing.T) {
	f := newFaulty(t)
	i := f.instance()
	f.do(i.ID, mvm.OpSleep)
	f.at("driver.restore", syscall.ENOSPC)
	var wakes atomic.Int32
	f.onSeam(func(p string) error {
		if p == "wake.begin:before" {
			wakes.Add(1)
		}
		return nil
	})
	tries := func() int { return int(wakes.Load()) }
	ask := func(by mvm.Asker) error {
		_, err := f.a.Operate(mvm.WithAsker(ctx(t), by), mvm.Address{Instance: i.ID}, mvm.OpRequest{Op: mvm.OpWake}, nil)
		return err
	}
	for range 20 {
		if err := ask(mvm.ParseAsker("gateway:i-00000001")); !errors.Is(err, syscall.ENOSPC) || !mvm.IsKind(err, mvm.KindUnavailable) {
			t.Fatalf("wake for a request: %v, want unavailable for want of space", err)
		}
	}
	n := tries()
	if n < 1 || n > 3 {
		t.Errorf("20 requests made %d tries, want one for each pause", n)
	}
	if err := ask(mvm.ParseAsker("cli:root")); !errors.Is(err, syscall.ENOSPC) || tries() != n+1 {
		t.Errorf("a person's wake: %v after %d tries, want one more than %d", err, tries(), n)
	}
	f.mend()
	waitUntil(t, func() bool { return ask(mvm.ParseAsker("gateway:i-00000001")) == nil })
	if got := f.get(i.ID); got.Last.Kind != "warm" {
		t.Errorf("it woke by %q: %s", got.Last.Kind, got.Last.Reason)
	}
}

// TestVMMIsKeptWhileTheHostCannotTakeItUp: an agent that lacks something when it starts
// leaves VMMs as they are, and takes them up later.
func TestVMMIsKeptWhileTheHostCannotTakeItUp(t *testing.T) {
	for _, op := range []fake.Op{fake.OpRecover, fake.OpPaused} {
		t.Run(string(op), func(t *testing.T) {
			f := newFaulty(t)
			i := f.instance()
			boot := f.boot(i.ID)
			f.stop()
			f.at("driver."+string(op), syscall.EMFILE)
			f.start()
			if err := f.try(i.ID, mvm.OpSleep); !errors.Is(err, syscall.EMFILE) {
				t.Errorf("sleep meanwhile: %v, want that it has no files left", err)
			}
			if got := f.get(i.ID); got.State != mvm.StateRunning || len(f.host.host.VMMs()) != 1 {
				t.Fatalf("it is %s with %d VMMs, want running as before", got.State, len(f.host.host.VMMs()))
			}
			f.mend()
			f.do(i.ID, mvm.OpStart)
			if f.boot(i.ID) != boot {
				t.Error("the guest was booted again: its memory is lost")
			}
		})
	}
}

// TestSilentVMMIsAskedAgain: a VMM that does not answer at once, as on a loaded host, is
// taken up by a later try; one that never answers is ended, and its instance boots.
func TestSilentVMMIsAskedAgain(t *testing.T) {
	for _, c := range []struct {
		silent int32
		keeps  bool
	}{{2, true}, {1 << 20, false}} {
		t.Run(fmt.Sprint(c.silent), func(t *testing.T) {
			h := newHost(t)
			var left atomic.Int32
			h.opt.Fail = func(op fake.Op, _ string) error {
				if op == fake.OpRecover && left.Add(-1) >= 0 {
					return mvm.Errorf(mvm.KindUnavailable, "the VMM does not answer")
				}
				return nil
			}
			h.start()
			i := h.instance()
			boot := h.boot(i.ID)
			h.stop()
			left.Store(c.silent)
			h.start()
			waitUntil(t, func() bool { return h.try(i.ID, mvm.OpStart) == nil })
			if kept := h.boot(i.ID) == boot; kept != c.keeps {
				t.Errorf("memory kept: %v, want %v", kept, c.keeps)
			}
		})
	}
}

// fullStore is a host whose store can't be written while full is set.
type fullStore struct {
	*host
	full atomic.Bool
}

func newFullStore(t *testing.T) *fullStore {
	f := &fullStore{host: newHost(t)}
	f.storeSeam = func(op string) error {
		if op == store.SeamCommit && f.full.Load() {
			return syscall.ENOSPC
		}
		return nil
	}
	f.start()
	return f
}

// from has the store be full from the point on.
func (f *fullStore) from(point string) {
	f.onSeam(func(p string) error {
		if p == point {
			f.full.Store(true)
		}
		return nil
	})
}

// TestFullStoreAtEveryStepOfAWake: the records can't be written from some step of a wake
// on. What the guest had in memory is there once they can.
func TestFullStoreAtEveryStepOfAWake(t *testing.T) {
	f := newFullStore(t)
	i := f.instance()
	boot := f.boot(i.ID)
	for _, point := range points(t, mvm.OpWake, mvm.OpSleep) {
		if !strings.HasPrefix(point, "wake.") {
			continue
		}
		f.do(i.ID, mvm.OpSleep)
		f.from(point)
		_ = f.try(i.ID, mvm.OpWake) // what is written by then is done
		f.onSeam(nil)
		f.full.Store(false)
		f.do(i.ID, mvm.OpWake)
		if got := f.get(i.ID); got.State != mvm.StateRunning || got.Op != nil || f.boot(i.ID) != boot {
			t.Fatalf("store full from %s: it is %s with op %+v, by %q (%s); want its memory", point, got.State, got.Op, got.Last.Kind, got.Last.Reason)
		}
	}
}

// TestFullStoreAtTheCommitOfASleep: a sleep that was committed, and could neither go on nor
// be taken back, is finished later.
func TestFullStoreAtTheCommitOfASleep(t *testing.T) {
	for _, point := range []string{"sleep.commit:before", "sleep.commit:after", "sleep.release:before"} {
		t.Run(point, func(t *testing.T) {
			f := newFullStore(t)
			i := f.instance()
			boot := f.boot(i.ID)
			f.onSeam(func(p string) error {
				if p != point {
					return nil
				}
				f.full.Store(true)
				return syscall.ENOSPC
			})
			if err := f.try(i.ID, mvm.OpSleep); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("sleep: %v, want that no space is left", err)
			}
			f.onSeam(nil)
			f.full.Store(false)
			f.do(i.ID, mvm.OpWake)
			if f.boot(i.ID) != boot {
				t.Errorf("its memory is lost: %s", f.get(i.ID).Last.Reason)
			}
		})
	}
}
