package inject_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"mvm/internal/testenv/inject"
)

// Calls are made in the process, which then goes on as if nothing had been.
func TestInto(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "echo ready; read x; echo got $x")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out := bufio.NewReader(pipe)
	if line, err := out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("it began with %q, %v", line, err)
	}
	pid, made := cmd.Process.Pid, filepath.Join(t.TempDir(), "made")
	err = inject.Into(pid, pid, func(th *inject.Thread) error {
		if got, err := th.Call(unix.SYS_GETPID); err != nil || got != uint64(pid) {
			t.Errorf("getpid: %d, %v; want %d", got, err, pid)
		}
		fd, err := th.Call(unix.SYS_OPEN, made, unix.O_CREAT|unix.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		if n, err := th.Call(unix.SYS_PWRITE64, fd, []byte("hello"), 5, 0); err != nil || n != 5 {
			t.Errorf("write: %d, %v", n, err)
		}
		back := make([]byte, 5)
		if n, err := th.Call(unix.SYS_PREAD64, fd, back, 5, 0); err != nil || n != 5 || string(back) != "hello" {
			t.Errorf("read: %d, %v, %q", n, err, back)
		}
		if _, err := th.Call(unix.SYS_OPEN, "/no/such", 0, 0); !errors.Is(err, unix.ENOENT) {
			t.Errorf("open of nothing: %v", err)
		}
		return th.Rename("another")
	})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(made); err != nil || string(b) != "hello" {
		t.Errorf("it wrote %q, %v", b, err)
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err != nil || !strings.HasPrefix(string(b), "another\x00\x00") {
		t.Errorf("its arguments are %q, %v", b, err)
	}
	if _, err := in.Write([]byte("this\n")); err != nil {
		t.Fatal(err)
	}
	line, _ := out.ReadString('\n')
	if err := cmd.Wait(); err != nil || line != "got this\n" {
		t.Errorf("it went on with %v, and said %q", err, line)
	}
}
