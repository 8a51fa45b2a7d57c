package sys_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"mvm/internal/sys"
)

func TestFault(t *testing.T) {
	for _, c := range []struct {
		err   error
		errno syscall.Errno
		lacks bool
		fix   bool
	}{
		{nil, 0, false, false},
		{errors.New("broken"), 0, false, false},
		{&fs.PathError{Op: "open", Path: "/x", Err: syscall.ENOENT}, 0, false, false},
		{&fs.PathError{Op: "write", Path: "/x", Err: syscall.ENOSPC}, syscall.ENOSPC, true, true},
		{fmt.Errorf("a: %w", errors.Join(errors.New("b"), os.NewSyscallError("socket", syscall.EMFILE))), syscall.EMFILE, true, true},
		{fmt.Errorf("ask: %w", sys.ErrAway), 0, true, false},
	} {
		errno, lacks := sys.Fault(c.err)
		if errno != c.errno || lacks != c.lacks || sys.FaultFix(c.err) != "" != c.fix {
			t.Errorf("%v: %v, %v, fix %q; want %v, %v", c.err, errno, lacks, sys.FaultFix(c.err), c.errno, c.lacks)
		}
	}
}

func TestFaultInWords(t *testing.T) {
	for words, want := range map[string]syscall.Errno{
		"": 0,
		"qemu-system-x86_64: load of migration failed: Input/output error":                0,
		"qemu-system-x86_64: load of migration failed: Invalid argument":                  0,
		"qemu-system-x86_64: load of migration failed: No space left on device":           syscall.ENOSPC,
		"qemu-system-x86_64: cannot set up guest memory 'pc.ram': Cannot allocate memory": syscall.ENOMEM,
		"(process:7): GLib-ERROR **: 10:00:00.000: failed to allocate 134217728 bytes":    syscall.ENOMEM,
		"qemu: qemu_thread_create: Resource temporarily unavailable":                      syscall.EAGAIN,
		"qemu-system-x86_64: Could not open '/dev/fdset/2': Too many open files":          syscall.EMFILE,
		"qemu-system-x86_64: -blockdev …: Could not reopen file: Read-only file system":   syscall.EROFS,
		"qemu-system-x86_64: could not write: Disk quota exceeded":                        syscall.EDQUOT,
	} {
		if got, ok := sys.FaultIn(words); got != want || ok != (want != 0) {
			t.Errorf("%q: %v, %v; want %v", words, got, ok, want)
		}
	}
}

func TestNoProgram(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, notInPath := exec.LookPath("there-is-no-such-program")
	for what, err := range map[string]error{
		"not there": exec.Command(filepath.Join(dir, "none")).Run(), "no program": exec.Command(plain).Run(), "not in the path": notInPath,
	} {
		if !sys.NoProgram(err) {
			t.Errorf("%s: %v is not told as a program that can't be started", what, err)
		}
	}
	_, open := os.Open(filepath.Join(dir, "none"))
	if sys.NoProgram(open) || sys.NoProgram(exec.Command("false").Run()) {
		t.Errorf("a file that is not there, or a program that fails, is told as one")
	}
}
