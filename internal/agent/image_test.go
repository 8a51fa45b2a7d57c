package agent_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mvm"
)

// flip changes a byte of a file in place, and leaves its size.
func flip(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedImageDoesNotBoot flips a byte in each file of an image. Nothing starts from
// it, a sleeper keeps its memory where its root disk is concerned, and is not kept from
// waking by files that only a boot reads. Building the pool again mends it.
func TestDamagedImageDoesNotBoot(t *testing.T) {
	for _, file := range []string{"vmlinux", "initrd", "rootfs"} {
		t.Run(file, func(t *testing.T) {
			h := newHost(t)
			h.start()
			sleeper := h.instance()
			boot := h.boot(sleeper.ID)
			h.do(sleeper.ID, mvm.OpSleep)
			fresh, err := h.a.CreateInstance(ctx(t), "acme", "workers", "")
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(h.dir, "images", strings.Replace(sleeper.Image, ":", "-", 1), file)
			flip(t, path)
			h.wantDamaged(path, fresh.ID, mvm.OpStart)
			if file == "rootfs" {
				h.wantDamaged(path, sleeper.ID, mvm.OpWake)
				if got := h.get(sleeper.ID); got.State != mvm.StateSleeping || got.Snapshot == nil {
					t.Fatalf("the sleeper is %s with snapshot %v", got.State, got.Snapshot)
				}
				h.stop() // the check does not depend on what this agent has read
				h.start()
				h.wantDamaged(path, sleeper.ID, mvm.OpWake)
				h.rebuild()
			}
			h.do(sleeper.ID, mvm.OpWake)
			if got := h.boot(sleeper.ID); got != boot {
				t.Errorf("the sleeper was booted again: its memory is lost")
			}
			h.rebuild()
			h.do(fresh.ID, mvm.OpStart)
		})
	}
}

// TestNothingIsGivenUpForADamagedImage: a sleeper that is to boot, because its pool has
// another image or its snapshot does not fit, keeps its memory when that boot must fail.
func TestNothingIsGivenUpForADamagedImage(t *testing.T) {
	t.Run("another image", func(t *testing.T) {
		h := newHost(t)
		h.start()
		i := h.instance()
		boot := h.boot(i.ID)
		h.do(i.ID, mvm.OpSleep)
		h.change("workers", func(s *mvm.PoolSpec) { s.Flake = "builtin:other" })
		b, err := h.a.BuildPool(ctx(t), "acme", "workers", nil)
		if err != nil {
			t.Fatal(err)
		}
		flip(t, filepath.Join(h.dir, "images", strings.Replace(b.Digest, ":", "-", 1), "initrd"))
		h.do(i.ID, mvm.OpWake)
		if got := h.boot(i.ID); got != boot {
			t.Error("its memory was given up for an image that can't boot")
		}
	})
	t.Run("misfit", func(t *testing.T) {
		h := newHost(t)
		h.start()
		i := h.instance()
		h.do(i.ID, mvm.OpSleep)
		state := filepath.Join(h.dir, "instances", i.ID, "snapshots")
		if err := os.Rename(state, state+".away"); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(h.dir, "images", strings.Replace(i.Image, ":", "-", 1), "initrd")
		flip(t, path)
		h.wantDamaged(path, i.ID, mvm.OpWake)
		if got := h.get(i.ID); got.State != mvm.StateSleeping || got.Snapshot == nil {
			t.Errorf("it is %s with snapshot %v", got.State, got.Snapshot)
		}
	})
}

// TestRollbackLooksAtTheImage: a pool does not go back to a build that can't boot.
func TestRollbackLooksAtTheImage(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	h.change("workers", func(s *mvm.PoolSpec) { s.Flake = "builtin:other" })
	now, err := h.a.BuildPool(ctx(t), "acme", "workers", nil)
	if err != nil {
		t.Fatal(err)
	}
	flip(t, filepath.Join(h.dir, "images", strings.Replace(i.Image, ":", "-", 1), "initrd"))
	if b, err := h.a.RollbackPool(ctx(t), "acme", "workers", ""); err == nil || !strings.Contains(err.Error(), "initrd has") {
		t.Errorf("rolled back to %v: %v", b, err)
	}
	if p, err := h.a.Pool(ctx(t), "acme", "workers"); err != nil || p.Builds[0].ID != now.ID {
		t.Errorf("builds %v, %v", p.Builds, err)
	}
}

// wantDamaged operates on the instance and wants an error that names the file, both
// digests and what to do.
func (h *host) wantDamaged(path, id string, op mvm.OpKind) {
	h.t.Helper()
	err := h.try(id, op)
	text := fmt.Sprint(err)
	if err == nil || !strings.Contains(text, path) || strings.Count(text, "and SHA-256 ") != 1 || !strings.Contains(text, "mvm pool build acme/workers") ||
		!strings.Contains(text, "mvm pool rollback acme/workers") {
		h.t.Fatalf("%s with a damaged %s: %v", op, filepath.Base(path), err)
	}
	if n := len(h.host.VMMs()); n != 0 {
		h.t.Fatalf("%d VMMs", n)
	}
}

func (h *host) rebuild() {
	h.t.Helper()
	if _, err := h.a.BuildPool(ctx(h.t), "acme", "workers", nil); err != nil {
		h.t.Fatal(err)
	}
}
