package qemu_test

import (
	"log/slog"
	"path/filepath"
	"testing"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/qemu"
)

// Without a kernel to probe with the answer is TCG, whatever the machine has.
func TestWithoutKVMNothingStartsWhereThatIsAsked(t *testing.T) {
	dir := t.TempDir()
	d, err := qemu.New(qemu.Options{StateDir: filepath.Join(dir, "state"), KVMOnly: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Start(t.Context(), driver.Spec{ID: "i-00000001", Dir: dir, RunDir: dir, UID: 0x70000000, GID: 0x70000000, VCPUs: 1, MemMiB: 128,
		Kernel: filepath.Join(dir, "kernel"), Memory: filepath.Join(dir, "memory"), Console: filepath.Join(dir, "console")})
	if !mvm.IsKind(err, mvm.KindPolicy) {
		t.Errorf("got %v, want a refusal", err)
	}
}
