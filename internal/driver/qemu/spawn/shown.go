package spawn

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"mvm/internal/jail"
)

// firmwareFiles are what QEMU loads for the machine, where it finds them. The first is
// there for hosts without qboot.
var firmwareFiles = []string{"bios-256k.bin", qboot, "pvh.bin", "linuxboot_dma.bin", "kvmvapic.bin"}

// shown are the files of the host that a VMM sees. They are looked for once for each QEMU
// that is installed: its interpreter has to run for that.
type shown struct {
	binary string

	mu  sync.Mutex
	of  syscall.Stat_t
	all []string
}

func (s *shown) files(ctx context.Context) ([]string, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(s.binary, &st); err != nil {
		return nil, &os.PathError{Op: "fork/exec", Path: s.binary, Err: err} // as package os says it
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all != nil && s.of.Dev == st.Dev && s.of.Ino == st.Ino && s.of.Ctim == st.Ctim {
		return s.all, nil
	}
	all, err := jail.Closure(ctx, s.binary)
	if err != nil {
		return nil, err
	}
	for _, m := range modules(s.binary) {
		more, err := jail.Closure(ctx, m)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	for _, dir := range dataFolders(s.binary) {
		for _, name := range firmwareFiles {
			if p := filepath.Join(dir, name); regularFile(p) {
				all = append(all, p)
			}
		}
	}
	all = append(all, "/dev/null", "/dev/urandom")
	slices.Sort(all)
	s.of, s.all = st, slices.Compact(all)
	return s.all, nil
}

// modules are the parts of QEMU that its packages have in files of their own: the
// accelerators.
func modules(binary string) []string {
	var all []string
	for _, dir := range []string{"../lib/x86_64-linux-gnu/qemu", "../lib/qemu", "../lib64/qemu"} {
		found, _ := filepath.Glob(filepath.Join(filepath.Dir(binary), dir, "accel-*-x86_64.so"))
		all = append(all, found...)
	}
	return all
}

func dataFolders(binary string) []string {
	prefix := filepath.Join(filepath.Dir(binary), "../share")
	return []string{filepath.Join(prefix, "qemu"), filepath.Join(prefix, "seabios")}
}

func regularFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

// devices are those that the VMM opens itself.
func (l Launch) devices() []string {
	if l.Accel == AccelKVM {
		return []string{kvmDevice}
	}
	return nil
}
