package fake_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/fake"
	"mvm/internal/guestproto"
)

func spec(t *testing.T, id string) driver.Spec {
	t.Helper()
	dir, err := os.MkdirTemp("", "mvm-fake")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := driver.Spec{ID: id, Dir: filepath.Join(dir, "inst"), RunDir: filepath.Join(dir, "run", id), VCPUs: 1, MemMiB: 128,
		Kernel: filepath.Join(dir, "kernel"), Memory: filepath.Join(dir, "inst", "memory")}
	for _, d := range []string{s.Dir, s.RunDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.Kernel, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

func ping(t *testing.T, v driver.VMM) error {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	c, err := v.Dial(ctx, guestproto.GuestPort)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = guestproto.Call(ctx, c, guestproto.Request{Ping: true})
	return err
}

func TestSleepAndWake(t *testing.T) {
	h := fake.NewHost()
	defer h.Close()
	d := fake.New(h, fake.Options{})
	s := spec(t, "i-00000001")
	v, err := d.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := ping(t, v); err != nil {
		t.Fatal(err)
	}
	snap := driver.Snapshot{State: filepath.Join(s.Dir, "state")}
	if err := errors.Join(v.Pause(t.Context()), v.Snapshot(t.Context(), snap), v.Kill(t.Context())); err != nil {
		t.Fatal(err)
	}
	if v, err = d.Restore(t.Context(), s, snap); err != nil {
		t.Fatal(err)
	}
	if err := v.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ping(t, v); err != nil {
		t.Fatal(err)
	}
	if got := h.Violations(); len(got) > 0 {
		t.Errorf("violations: %v", got)
	}
	if err := v.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Restore(t.Context(), s, snap); !mvm.IsKind(err, mvm.KindInvalid) {
		t.Errorf("restore of a consumed snapshot: %v", err)
	}
	if got := h.Violations(); len(got) != 1 {
		t.Errorf("violations: %v, want one", got)
	}
}
