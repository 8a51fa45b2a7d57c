package agent_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"mvm"
	"mvm/internal/agent"
	"mvm/internal/driver/fake"
)

// damaged is a host whose driver refuses snapshots while bad is set.
type damaged struct {
	*host
	bad atomic.Bool
}

func newDamaged(t *testing.T, limits agent.SetAsideLimits) *damaged {
	d := &damaged{host: newHost(t)}
	d.aside = limits
	d.opt.Fail = d.failBad
	d.start()
	return d
}

func (d *damaged) failBad(op fake.Op, _ string) error {
	if op == fake.OpRestore && d.bad.Load() {
		return errBadSnapshot
	}
	return nil
}

// plain is an instance that runs, without a data disk.
func (h *host) plain() mvm.Instance {
	h.t.Helper()
	spec := worker("plain")
	spec.Resources.DataDiskMiB = 0
	h.instance() // the tenant
	if _, err := h.a.CreatePool(ctx(h.t), "acme", spec); err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.a.BuildPool(ctx(h.t), "acme", "plain", nil); err != nil {
		h.t.Fatal(err)
	}
	i, err := h.a.CreateInstance(ctx(h.t), "acme", "plain", "")
	if err != nil {
		h.t.Fatal(err)
	}
	return h.do(i.ID, mvm.OpStart)
}

// spoil has the instance sleep, and woken by a cold boot since its snapshot is bad.
func (d *damaged) spoil(id string) mvm.AsideSnapshot {
	d.t.Helper()
	d.do(id, mvm.OpSleep)
	d.bad.Store(true)
	if got := d.do(id, mvm.OpWake); got.Last.Kind != "cold" {
		d.t.Fatalf("woken by %q", got.Last.Kind)
	}
	d.bad.Store(false)
	all := d.snapshots(id)
	if len(all) == 0 {
		return mvm.AsideSnapshot{}
	}
	return all[len(all)-1]
}

func (h *host) snapshots(id string) []mvm.AsideSnapshot {
	h.t.Helper()
	all, err := h.a.Snapshots(ctx(h.t), mvm.Address{Instance: id})
	if err != nil {
		h.t.Fatal(err)
	}
	return all
}

func (h *host) asideDirs(id string) (names []string) {
	entries, _ := os.ReadDir(filepath.Join(h.dir, "instances", id, "set-aside"))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestSnapshotIsBroughtBack: what was set aside is there with the reason, also after a
// restart of the agent and a look for garbage, and its memory comes back.
func TestSnapshotIsBroughtBack(t *testing.T) {
	d := newDamaged(t, agent.SetAsideLimits{})
	i := d.plain()
	boot := d.boot(i.ID)
	s := d.spoil(i.ID)
	if s.Misfit != "" || !strings.Contains(s.Why, "broken on purpose") || s.Snapshot.Bytes == 0 || s.Until.Sub(s.At).Hours() != 7*24 {
		t.Errorf("set aside: %+v", s)
	}
	d.stop()
	d.start()
	if _, err := d.a.NodeGC(ctx(t)); err != nil {
		t.Fatal(err)
	}
	back := func() error {
		_, err := d.a.RestoreSnapshot(ctx(t), mvm.Address{Instance: i.ID}, s.Snapshot.ID)
		return err
	}
	if err := back(); !mvm.IsKind(err, mvm.KindState) || !strings.Contains(err.Error(), "running") {
		t.Errorf("bring back while it runs: %v, want refused", err)
	}
	d.do(i.ID, mvm.OpStop)
	if err := back(); err != nil {
		t.Fatal(err)
	}
	if got := d.get(i.ID); got.State != mvm.StateSleeping || got.Op != nil || len(got.SetAside) > 0 || len(d.asideDirs(i.ID)) > 0 {
		t.Errorf("it is %s with op %v and %v set aside, want asleep", got.State, got.Op, got.SetAside)
	}
	if got := d.do(i.ID, mvm.OpWake); got.Last.Kind != "warm" || d.boot(i.ID) != boot {
		t.Errorf("woken by %q: %s; want its memory", got.Last.Kind, got.Last.Reason)
	}
	if err := back(); !mvm.IsKind(err, mvm.KindNotFound) {
		t.Errorf("bring back once more: %v, want not found", err)
	}
	var got []mvm.Action
	for _, a := range d.actions("acme") {
		if strings.HasPrefix(string(a), "Snapshot") {
			got = append(got, a)
		}
	}
	if want := []mvm.Action{mvm.SnapshotCreated, mvm.SnapshotSetAside, mvm.SnapshotBroughtBack, mvm.SnapshotRestored}; !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
}

// TestSnapshotOfOtherDisksIsRefused: memory and a data disk that was in use since do not
// belong together. A boot that did not come to a VMM was no use.
func TestSnapshotOfOtherDisksIsRefused(t *testing.T) {
	d := newDamaged(t, agent.SetAsideLimits{})
	var full atomic.Bool
	refuse := d.opt.Fail
	d.stop()
	d.opt.Fail = func(op fake.Op, id string) error {
		if op == fake.OpStart && full.Load() {
			return syscall.ENOSPC
		}
		return refuse(op, id)
	}
	d.start()
	i := d.instance()
	s := d.spoil(i.ID)
	if !strings.Contains(s.Misfit, "the disks have changed since") {
		t.Errorf("misfit %q, want the disks", s.Misfit)
	}
	d.do(i.ID, mvm.OpStop)
	if _, err := d.a.RestoreSnapshot(ctx(t), i.Address(), s.Snapshot.ID); !mvm.IsKind(err, mvm.KindState) || !strings.Contains(err.Error(), "disks") {
		t.Errorf("bring back: %v, want refused for the disks", err)
	}

	d.do(i.ID, mvm.OpStart)
	boot := d.boot(i.ID)
	d.do(i.ID, mvm.OpSleep)
	d.bad.Store(true)
	full.Store(true)
	if err := d.try(i.ID, mvm.OpWake); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("wake from a bad snapshot on a full disk: %v", err)
	}
	d.bad.Store(false)
	full.Store(false)
	all := d.snapshots(i.ID)
	last := all[len(all)-1]
	if last.Misfit != "" {
		t.Errorf("misfit %q, though nothing ran since", last.Misfit)
	}
	if _, err := d.a.RestoreSnapshot(ctx(t), i.Address(), last.Snapshot.ID); err != nil {
		t.Fatal(err)
	}
	if d.do(i.ID, mvm.OpWake); d.boot(i.ID) != boot {
		t.Error("its memory is lost")
	}
}

// TestBringingBackIsCutOff: an agent that dies in any step of it leaves the snapshot set
// aside or brought back, and whole.
func TestBringingBackIsCutOff(t *testing.T) {
	for _, point := range []string{"restore.intent:before", "restore.intent:after", "restore.files:before", "restore.files:after"} {
		t.Run(point, func(t *testing.T) {
			d := newDamaged(t, agent.SetAsideLimits{})
			i := d.plain()
			boot := d.boot(i.ID)
			s := d.spoil(i.ID)
			d.do(i.ID, mvm.OpStop)
			crashed := d.crashAt(point)
			c, cancel := context.WithCancel(ctx(t))
			var wg sync.WaitGroup
			wg.Go(func() { _, _ = d.a.RestoreSnapshot(c, i.Address(), s.Snapshot.ID) })
			<-crashed
			cancel()
			wg.Wait()
			d.onSeam(nil)
			d.stop()
			d.start()
			if got := d.get(i.ID); got.State != mvm.StateStopped || got.Op != nil || len(d.snapshots(i.ID)) != 1 {
				t.Fatalf("it is %s with op %+v and %d set aside", got.State, got.Op, len(d.snapshots(i.ID)))
			}
			if _, err := d.a.RestoreSnapshot(ctx(t), i.Address(), s.Snapshot.ID); err != nil {
				t.Fatal(err)
			}
			if d.do(i.ID, mvm.OpWake); d.boot(i.ID) != boot {
				t.Error("its memory is lost")
			}
		})
	}
}

// TestSetAsideIsBounded: by number, bytes and time, with an event for each that goes.
func TestSetAsideIsBounded(t *testing.T) {
	for what, c := range map[string]struct {
		limits agent.SetAsideLimits
		spoil  int
		left   int
		why    string
	}{
		"number": {agent.SetAsideLimits{PerInstance: 2}, 4, 2, "an instance keeps 2"},
		"bytes":  {agent.SetAsideLimits{PerInstance: 9, Bytes: 1}, 2, 0, "may hold 0 MiB"},
		"time":   {agent.SetAsideLimits{Keep: -1}, 2, 0, "kept for 0s"},
	} {
		t.Run(what, func(t *testing.T) {
			d := newDamaged(t, c.limits)
			i := d.instance()
			for range c.spoil {
				d.spoil(i.ID)
			}
			if n := len(d.snapshots(i.ID)); n != c.left || len(d.asideDirs(i.ID)) != c.left {
				t.Errorf("%d are set aside, with folders %v; want %d", n, d.asideDirs(i.ID), c.left)
			}
			gone := 0
			err := d.a.Events(ctx(t), mvm.EventFilter{Tenant: "acme", Actions: []mvm.Action{mvm.SnapshotDeleted}}, func(e mvm.Event) error {
				if e.By == mvm.ParseAsker("agent") && strings.Contains(e.Why, c.why) && e.Instance == i.ID {
					gone++
				}
				return nil
			})
			if err != nil || gone != c.spoil-c.left {
				t.Errorf("%d events of removals (%v), want %d", gone, err, c.spoil-c.left)
			}
		})
	}
}

// TestSetAsideIsRemovedByHand: with its files, on record, and in the name of who asked.
func TestSetAsideIsRemovedByHand(t *testing.T) {
	d := newDamaged(t, agent.SetAsideLimits{})
	i := d.instance()
	s := d.spoil(i.ID)
	by := mvm.WithAsker(ctx(t), mvm.ParseAsker("cli:root"))
	if err := d.a.RemoveSnapshot(by, i.Address(), s.Snapshot.ID); err != nil {
		t.Fatal(err)
	}
	if len(d.snapshots(i.ID)) > 0 || len(d.asideDirs(i.ID)) > 0 {
		t.Errorf("left: %v, %v", d.snapshots(i.ID), d.asideDirs(i.ID))
	}
	if err := d.a.RemoveSnapshot(by, i.Address(), s.Snapshot.ID); !mvm.IsKind(err, mvm.KindNotFound) {
		t.Errorf("remove again: %v, want not found", err)
	}
}
