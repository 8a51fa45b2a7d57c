package qemu_test

import (
	"bufio"
	"context"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"mvm/internal/driver"
)

// failCalls has every such call of the process fail with the errno until the process or
// the test ends.
func failCalls(t *testing.T, pid int, calls, errno string) {
	t.Helper()
	cmd := exec.Command("strace", "-f", "-p", strconv.Itoa(pid), "-o", "/dev/null", "-e", "trace="+calls, "-e", "inject="+calls+":error="+errno)
	said, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(said).ReadString('\n')
	if err != nil || !strings.Contains(line, "attached") {
		t.Fatalf("strace says %q, %v: run scripts/setup --test", line, err)
	}
}

// A QEMU whose system calls fail while it loads, as they do on a host that lacks something,
// says nothing about the snapshot either: it is whole afterwards.
func TestRestoreWhileCallsFail(t *testing.T) {
	s := sleeper(t, "i-00014002", "")
	for _, c := range []struct{ calls, errno string }{
		{"readv", "ENOMEM"}, {"readv", "EAGAIN"}, {"readv", "ENFILE"}, {"readv", "EDQUOT"}, {"readv", "EROFS"}, {"readv", "EIO"},
		{"mmap,brk,mprotect", "ENOMEM"}, {"recvmsg", "ENOMEM"}, {"write", "ENOSPC"},
	} {
		s.seam = func(op string) error {
			if op == "restore.load" {
				failCalls(t, s.pid(), c.calls, c.errno)
			}
			return nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // some have QEMU hang
		v, err := s.d.Restore(ctx, s.spec, s.snap)
		cancel()
		if err == nil {
			must(t, v.Kill(t.Context()))
			must(t, v.Close())
		}
		if err == nil || driver.BadSnapshot(err) {
			t.Errorf("%s fails with %s: %v (about the snapshot: %v), want the host's fault", c.calls, c.errno, err, driver.BadSnapshot(err))
		}
	}
	s.seam = nil
	s.wakes()
}
