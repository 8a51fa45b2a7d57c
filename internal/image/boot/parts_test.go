package boot_test

import (
	"os"
	"path/filepath"
	"testing"

	"mvm/internal/image/boot"
)

// TestDamagedPartIsBuiltAgain: images share a part's files by hard links, so a build that
// mends an image must not take the damaged file from the part.
func TestDamagedPartIsBuiltAgain(t *testing.T) {
	dir, built := t.TempDir(), 0
	get := func() string {
		t.Helper()
		part, err := boot.Part(t.Context(), dir, "kernel", "1", func(dir string) error {
			built++
			return os.WriteFile(filepath.Join(dir, "vmlinux"), []byte("kernel"), 0o644)
		})
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(part, "vmlinux"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	spoil := func() {
		t.Helper()
		path := filepath.Join(dir, "kernel-1", "vmlinux")
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("kernem"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for n, want := range []int{1, 1, 2, 2} {
		if n == 2 {
			spoil()
		}
		if got := get(); got != "kernel" || built != want {
			t.Errorf("get %d: %q after %d builds, want the kernel after %d", n, got, built, want)
		}
	}
	// A part that an older mvm made has no list of its files. It is used, and gets one.
	if err := os.Remove(filepath.Join(dir, "kernel-1", "sums.json")); err != nil {
		t.Fatal(err)
	}
	get()
	spoil()
	if got := get(); got != "kernel" || built != 3 {
		t.Errorf("a part of an older mvm, damaged since: %q after %d builds", got, built)
	}
}
