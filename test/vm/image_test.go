package vm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/image"
)

// TestDamagedImage: an initrd with a flipped byte is not booted. A sleeper, which has it
// in its memory, wakes all the same. Building the pool again mends the image.
func TestDamagedImage(t *testing.T) {
	h := newHost(t, "qemu")
	h.deploy("[tenant]\nid = \"acme\"\n" + workerPool("workers", 1))
	i := h.only("workers")
	h.mark(i.ID, "kept")
	before := h.trace(i.ID)
	h.do(i.ID, mvm.OpSleep)
	initrd := filepath.Join(place(), "images", strings.Replace(i.Image, ":", "-", 1), "initrd")
	damage(t, initrd)
	if w := h.do(i.ID, mvm.OpWake); w.Last.Kind != "warm" {
		t.Errorf("the wake was %s: %s", w.Last.Kind, w.Last.Reason)
	}
	if got := h.trace(i.ID); got != before {
		t.Errorf("after the wake the guest has %+v, want %+v", got, before)
	}
	h.do(i.ID, mvm.OpStop)
	_, err := h.try(i.ID, mvm.OpStart)
	if err == nil || !strings.Contains(err.Error(), filepath.Join(filepath.Base(filepath.Dir(initrd)), "initrd")+" has") || !strings.Contains(err.Error(), "mvm pool build acme/workers") {
		t.Fatalf("start with a flipped byte in the initrd: %v", err)
	}
	if got := h.get(i.ID); got.State != mvm.StateStopped {
		t.Errorf("the instance is %s", got.State)
	}
	b, err := h.client.BuildPool(h.ctx(), "acme", "workers", nil)
	must(t, err)
	if b.Digest != i.Image {
		t.Errorf("built again: %s, want %s", b.Digest, i.Image)
	}
	h.do(i.ID, mvm.OpStart)
}

// damage puts a file with one other byte in the place of a file of the store that all
// tests share, until the test ends.
func damage(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	good := filepath.Join(t.TempDir(), "good")
	must(t, os.WriteFile(good, b, 0o444))
	t.Cleanup(func() { // in place of what is there by then
		must(t, os.Remove(path))
		must(t, image.Link(good, path))
	})
	b[len(b)/2] ^= 1
	must(t, os.WriteFile(path+".new", b, 0o444))
	must(t, os.Rename(path+".new", path))
}
