package drivertest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	snap := l.snapshot(t, l.spec)
	if err := l.v.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := l.files(t, l.spec, snap)
	except := []durable.Exception{{Path: filepath.Base(l.spec.Console), Why: "output"}}
	for _, name := range l.Scratch {
		except = append(except, durable.Exception{Path: name, Why: "no snapshot is kept there"})
	}
	w := durable.Self(t, l.spec.Dir, except, func() {
		if err := l.v.Snapshot(t.Context(), snap); err != nil {
			t.Fatalf("snapshot: %v", err)
		}
	})
	parts := l.files(t, l.spec, snap)
	if len(parts) < 3 && !l.Plain {
		t.Errorf("the snapshot is %v, want a map, a device state and a segment", parts)
	}
	for _, path := range parts { // another process may have written them
		if !l.Plain && strings.HasPrefix(path, snap.Segments) && slices.Contains(before, path) {
			continue // the snapshot before has synced it, and nothing changes it
		}
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

// misfit restores snapshots that do not fit. The good one stays good.
func (l *life) misfit(t *testing.T) {
	snap, before := l.snapshot(t, l.spec), files(l.spec)
	refuse := func(t *testing.T, err error) {
		t.Helper()
		wantKind(t, "restore", err, mvm.KindInvalid)
		if !driver.BadSnapshot(err) {
			t.Errorf("restore: %v is not told as an error of the snapshot", err)
		}
		l.nothing(t, l.spec, slices.Concat(before, l.mayStay))
		_, err = l.Driver.Recover(t.Context(), l.spec)
		wantKind(t, "recover", err, mvm.KindNotFound)
	}
	t.Run("OtherMemorySize", func(t *testing.T) {
		spec := l.spec
		spec.MemMiB += 128
		_, err := l.Driver.Restore(t.Context(), spec, snap)
		refuse(t, err)
	})
	if l.Plain {
		l.misfitPlain(t, snap, before, refuse)
	} else {
		l.misfitSealed(t, snap, refuse)
	}
}

// misfitSealed damages each file of a sealed snapshot, and restores what is another's.
func (l *life) misfitSealed(t *testing.T, snap driver.Snapshot, refuse func(*testing.T, error)) {
	for _, path := range SnapshotFiles(t, snap) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		damage := func(name string, bad []byte) {
			t.Run(name+"/"+filepath.Base(path)[:3], func(t *testing.T) {
				defer func() {
					if err := os.WriteFile(path, b, 0o600); err != nil {
						t.Fatal(err)
					}
				}()
				err := os.Remove(path)
				if bad != nil {
					err = os.WriteFile(path, bad, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
				_, err = l.Driver.Restore(t.Context(), l.spec, snap)
				refuse(t, err)
			})
		}
		damage("Missing", nil)
		for _, keep := range []int{0, 10, len(b) / 2, len(b) - 1} {
			damage(fmt.Sprintf("Truncated-%d", keep), b[:keep])
		}
		for _, at := range []int{8<<10 + 1, len(b) - 20} { // behind the heads, of which each is there twice
			bad := bytes.Clone(b)
			bad[at] ^= 4
			damage(fmt.Sprintf("Changed-%d", at), bad)
		}
	}
	for name, change := range map[string]func(*driver.Snapshot){
		"OtherKey":      func(s *driver.Snapshot) { s.Key = otherKey(t) },
		"OtherSnapshot": func(s *driver.Snapshot) { s.ID += "x" },
		"NoSegments":    func(s *driver.Snapshot) { s.Segments += ".none" },
		"NoFolder":      func(s *driver.Snapshot) { s.State = filepath.Join(l.spec.Dir, "none", "state") },
	} {
		t.Run(name, func(t *testing.T) {
			bad := snap
			change(&bad)
			_, err := l.Driver.Restore(t.Context(), l.spec, bad)
			refuse(t, err)
		})
	}
}

// misfitPlain damages the state of a snapshot in the clear, and restores without a part.
func (l *life) misfitPlain(t *testing.T, snap driver.Snapshot, before []string, refuse func(*testing.T, error)) {
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
			l.mayStay = append(slices.Clone(before), bad.State)
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
	v, err := l.Driver.Restore(t.Context(), l.spec, l.snapshot(t, l.spec))
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
	v, err := l.Driver.Restore(t.Context(), l.spec, l.snapshot(t, l.spec))
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
	v, err := l.Driver.Restore(t.Context(), l.spec, l.snapshot(t, l.spec))
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
	l.nothing(t, l.spec, append(l.before, l.spec.Memory, l.snapshot(t, l.spec).State))
}
