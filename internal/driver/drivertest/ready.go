package drivertest

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"mvm/internal/driver"
)

// wakeFromReady wakes the guest from memory that was made ready, and never from what is ready of
// another snapshot.
func (l *life) wakeFromReady(t *testing.T) {
	l.remember(t, l.v, "before the sleep of which the memory is kept")
	l.putToSleep(t)
	first := l.ready(t)
	defer first.Close()
	l.wakeFrom(t, first)
	l.remembers(t, l.v, "before the sleep of which the memory is kept")

	l.remember(t, l.v, "what an old image does not have")
	l.putToSleep(t)
	for name, change := range map[string]func(*driver.Ready){
		"used before":           func(r *driver.Ready) { _ = r.Take().Close() },
		"of another snapshot":   func(r *driver.Ready) { r.Snapshot += "x" },
		"of an earlier content": func(r *driver.Ready) { r.Map = first.Map },
		"of another size":       func(r *driver.Ready) { r.MemMiB++ },
	} {
		t.Run(name, func(t *testing.T) {
			r := l.ready(t)
			defer r.Close()
			change(r)
			before := r.Taken()
			v := l.restore(t, r)
			if r.Taken() && !before {
				t.Error("it was used")
			}
			l.giveUp(t, v)
		})
	}
	t.Run("damaged map", func(t *testing.T) { l.damagedMap(t) })
	r := l.ready(t)
	defer r.Close()
	l.wakeFrom(t, r)
	l.remembers(t, l.v, "what an old image does not have")
}

func (l *life) ready(t *testing.T) *driver.Ready {
	t.Helper()
	r, err := l.Ready(t.Context(), l.spec, l.snapshot(t, l.spec))
	if err != nil {
		t.Fatalf("make the snapshot ready: %v", err)
	}
	if r.Bytes <= 0 {
		t.Errorf("it takes %d bytes", r.Bytes)
	}
	return r
}

func (l *life) restore(t *testing.T, r *driver.Ready) driver.VMM {
	t.Helper()
	snap := l.snapshot(t, l.spec)
	snap.Ready = r
	v, err := l.Driver.Restore(t.Context(), l.spec, snap)
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	return v
}

func (l *life) giveUp(t *testing.T, v driver.VMM) {
	t.Helper()
	if err := v.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.gone(t, v)
	if err := l.Driver.Destroy(t.Context(), l.spec); err != nil {
		t.Fatal(err)
	}
}

// wakeFrom wakes the guest from memory alone: its segments are away.
func (l *life) wakeFrom(t *testing.T, r *driver.Ready) {
	t.Helper()
	segments := l.snapshot(t, l.spec).Segments
	rename(t, segments, segments+".away")
	v := l.restore(t, r)
	if err := os.Remove(segments); err != nil { // restore made it
		t.Fatal(err)
	}
	rename(t, segments+".away", segments)
	if !r.Taken() {
		t.Error("it woke from its segments")
	}
	l.v = v
	if err := v.Resume(t.Context()); err != nil {
		t.Fatalf("resume: %v", err)
	}
	l.awake(t, v)
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// damagedMap: what can't be compared is not used.
func (l *life) damagedMap(t *testing.T) {
	snap := l.snapshot(t, l.spec)
	path := filepath.Join(filepath.Dir(snap.State), "map")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := l.ready(t)
	defer r.Close()
	bad := bytes.Clone(b)
	bad[len(bad)-20] ^= 4
	if err := os.WriteFile(path, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	snap.Ready = r
	v, err := l.Driver.Restore(t.Context(), l.spec, snap)
	if err == nil {
		l.giveUp(t, v)
	}
	if !driver.BadSnapshot(err) || r.Taken() {
		t.Errorf("restore: %v, and the memory was taken: %v", err, r.Taken())
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
