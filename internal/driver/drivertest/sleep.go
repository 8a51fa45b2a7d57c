package drivertest

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/guestproto"
	"mvm/internal/testenv/durable"
)

// sleep pauses the instance, takes its snapshot and kills the VMM.
func (l *life) sleep(t *testing.T) {
	l.remember(t, l.v, "before the sleep")
	c, err := l.v.Dial(t.Context(), guestproto.GuestPort)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := guestproto.Call(t.Context(), c, guestproto.Request{Ping: true}); err != nil {
		t.Fatal(err)
	}
	l.putToSleep(t)
	_ = c.SetReadDeadline(time.Now().Add(l.Patience))
	if _, err := c.Read(make([]byte, 1)); err == nil || timedOut(err) {
		t.Errorf("a stream of a VMM that was killed: %v, want its end", err)
	}
}

func (l *life) putToSleep(t *testing.T) {
	t.Helper()
	snap := state(l.spec)
	if err := l.v.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	except := []durable.Exception{{Path: filepath.Base(l.spec.Console), Why: "output"}}
	for _, name := range l.Scratch {
		except = append(except, durable.Exception{Path: name, Why: "no snapshot is kept there"})
	}
	w := durable.Self(t, l.spec.Dir, except, func() {
		if err := l.v.Snapshot(t.Context(), snap); err != nil {
			t.Fatalf("snapshot: %v", err)
		}
	})
	parts := parts(l.spec, snap)
	for _, path := range parts { // another process may have written them
		if w.Syncs(t, path) == 0 || w.Syncs(t, filepath.Dir(path)) == 0 {
			t.Errorf("a snapshot was taken, and %s and its folder were synced %d and %d times", path, w.Syncs(t, path), w.Syncs(t, filepath.Dir(path)))
		}
	}
	for _, f := range parts {
		if st, err := os.Stat(f); err != nil {
			t.Error(err)
		} else if got := st.Mode().Perm(); got != 0o600 {
			t.Errorf("%s has mode %o, want 600", f, got)
		}
	}
	for range 2 { // idempotent
		if err := l.v.Kill(t.Context()); err != nil {
			t.Fatalf("kill: %v", err)
		}
	}
	l.gone(t, l.v)
	if l.v.Exit().Guest {
		t.Errorf("exit of a killed VMM: %+v", l.v.Exit())
	}
	_, err := l.Driver.Recover(t.Context(), l.spec)
	wantKind(t, "recover of a sleeping instance", err, mvm.KindNotFound)
}

// parts are the files of the snapshot: its state, and the memory file or what that lacks.
func parts(spec driver.Spec, snap driver.Snapshot) []string {
	out := []string{snap.State}
	for _, f := range []string{snap.Pages(), snap.Whole(), spec.Memory} {
		if _, err := os.Stat(f); err == nil {
			return append(out, f)
		}
	}
	return append(out, spec.Memory)
}

// misfit restores snapshots that do not fit. The good one stays good.
func (l *life) misfit(t *testing.T) {
	snap, before := state(l.spec), files(l.spec)
	refuse := func(t *testing.T, err error) {
		t.Helper()
		wantKind(t, "restore", err, mvm.KindInvalid)
		if !driver.BadSnapshot(err) {
			t.Errorf("restore: %v is not told as an error of the snapshot", err)
		}
		l.nothing(t, l.spec, before)
		_, err = l.Driver.Recover(t.Context(), l.spec)
		wantKind(t, "recover", err, mvm.KindNotFound)
	}
	t.Run("OtherMemorySize", func(t *testing.T) {
		spec := l.spec
		spec.MemMiB += 128
		_, err := l.Driver.Restore(t.Context(), spec, snap)
		refuse(t, err)
	})
	for _, keep := range []int{0, 10, -1} {
		t.Run("TruncatedState", func(t *testing.T) {
			b, err := os.ReadFile(snap.State)
			if err != nil {
				t.Fatal(err)
			}
			bad := snap
			bad.State += ".bad"
			if keep < 0 {
				keep = len(b) / 2
			}
			if err := os.WriteFile(bad.State, b[:keep], 0o600); err != nil {
				t.Fatal(err)
			}
			before = append(slices.Clone(before), bad.State)
			_, err = l.Driver.Restore(t.Context(), l.spec, bad)
			refuse(t, err)
			if err := os.Remove(bad.State); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("NoState", func(t *testing.T) {
		bad := snap
		bad.State += ".none"
		_, err := l.Driver.Restore(t.Context(), l.spec, bad)
		refuse(t, err)
	})
	t.Run("NoMemory", func(t *testing.T) {
		spec := l.spec
		spec.Memory += ".none"
		_, err := l.Driver.Restore(t.Context(), spec, snap)
		refuse(t, err)
	})
}

// restoreGivenUp: killed before Resume, a restored snapshot is as good as before.
func (l *life) restoreGivenUp(t *testing.T) {
	before := files(l.spec)
	v, err := l.Driver.Restore(t.Context(), l.spec, state(l.spec))
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	if paused, err := v.Paused(t.Context()); err != nil || !paused {
		t.Errorf("paused after restore: %v, %v", paused, err)
	}
	if err := ping(t.Context(), v, stall); err == nil {
		t.Error("the guest answers before Resume")
	}
	if err := v.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.gone(t, v)
	if err := l.Driver.Destroy(t.Context(), l.spec); err != nil {
		t.Fatal(err)
	}
	l.nothing(t, l.spec, before)
}

// wake restores the snapshot: the guest goes on where it was.
func (l *life) wake(t *testing.T) {
	v, err := l.Driver.Restore(t.Context(), l.spec, state(l.spec))
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	l.v = v
	if err := v.Resume(t.Context()); err != nil {
		t.Fatalf("resume: %v", err)
	}
	l.awake(t, v)
	l.remembers(t, v, "before the sleep")
	if got := l.bootID(t, v); got != l.boot {
		t.Errorf("boot id %q, want %q: the guest booted anew", got, l.boot)
	}
}

// sleepAgain goes round once more, with an agent restart between restore and resume.
func (l *life) sleepAgain(t *testing.T) {
	l.remember(t, l.v, "before the second sleep")
	l.putToSleep(t)
	v, err := l.Driver.Restore(t.Context(), l.spec, state(l.spec))
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	l.v = v
	l.restart(t)
	if paused, err := l.v.Paused(t.Context()); err != nil || !paused {
		t.Errorf("paused: %v, %v", paused, err)
	}
	if err := l.v.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.remembers(t, l.v, "before the second sleep")
}

// poweroff: the guest ends by itself.
func (l *life) poweroff(t *testing.T) {
	ctx := t.Context()
	c, err := l.v.Dial(ctx, guestproto.GuestPort)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	resp, err := guestproto.Call(ctx, c, guestproto.Request{Shutdown: &guestproto.Shutdown{GraceSecs: 1}})
	if err != nil || resp.ShutdownAck == nil || !resp.ShutdownAck.Success {
		t.Fatalf("shutdown answered %+v, %v", resp, err)
	}
	l.gone(t, l.v)
	if e := l.v.Exit(); !e.Guest {
		t.Errorf("exit %+v, want the guest's own", e)
	}
	for name, call := range map[string]func() error{
		"pause":  func() error { return l.v.Pause(ctx) },
		"resume": func() error { return l.v.Resume(ctx) },
		"dial":   func() error { _, err := l.v.Dial(ctx, guestproto.GuestPort); return err },
		"stats":  func() error { _, err := l.v.Stats(ctx); return err },
	} {
		wantKind(t, name+" of a VMM that is gone", call(), mvm.KindState, mvm.KindUnavailable)
	}
	if err := l.v.Kill(ctx); err != nil {
		t.Errorf("kill of a VMM that is gone: %v", err)
	}
	_, err = l.Driver.Recover(ctx, l.spec)
	wantKind(t, "recover", err, mvm.KindNotFound)
}

func (l *life) destroy(t *testing.T) {
	for range 2 { // idempotent
		if err := l.Driver.Destroy(t.Context(), l.spec); err != nil {
			t.Fatal(err)
		}
	}
	l.nothing(t, l.spec, append(l.before, l.spec.Memory, state(l.spec).State))
}
