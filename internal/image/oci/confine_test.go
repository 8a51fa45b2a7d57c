package oci_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/image/oci"
)

const confinedName = "mvm-confined"

// beConfined tries what the process that unpacks layers may not do, were it taken over, and
// says on standard output what it could do.
func beConfined(file, other string) {
	pid, _ := strconv.Atoi(other)
	address, _ := os.ReadFile(file)
	if err := oci.Confine(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	startThreads(64)
	for what, try := range map[string]func() error{
		"open":    func() error { _, err := os.ReadFile(file); return err },
		"create":  func() error { return os.WriteFile(file+"-new", nil, 0o600) },
		"remove":  func() error { return os.Remove(file) },
		"list":    func() error { _, err := os.ReadDir("/"); return err },
		"link":    func() error { return os.Symlink("/", file+"-link") },
		"chmod":   func() error { return os.Chmod(file, 0o777) },
		"connect": func() error { _, err := net.DialTimeout("tcp", string(address), time.Second); return err },
		"socket":  func() error { _, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err },
		"fork":    func() error { return exec.Command("/bin/true").Run() },
		"kill":    func() error { return unix.Kill(pid, 0) },
		"thread":  func() error { return unix.Tgkill(pid, pid, 0) },
		"memory":  func() error { _, err := unix.ProcessVMReadv(pid, nil, nil, 0); return err },
		"trace":   func() error { return unix.PtraceAttach(pid) },
		"user":    func() error { return unix.Setuid(1) },
		"mount":   func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") },
		"limits":  func() error { return unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1 << 30, Max: 1 << 30}) },
		"spaces":  func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
		"uring": func() error {
			_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, 0, 0)
			if errno != 0 {
				return errno
			}
			return nil
		},
	} {
		if err := try(); err == nil {
			fmt.Println(what)
		} else if !errors.Is(err, unix.EPERM) && !strings.Contains(err.Error(), "operation not permitted") {
			fmt.Println(what, err)
		}
	}
	fmt.Println("done")
	os.Exit(0)
}

// startThreads has the process get so many threads more, as Go's runtime does when it needs them.
func startThreads(n int) {
	var all sync.WaitGroup
	up, done := make(chan struct{}), make(chan struct{})
	for range n {
		all.Go(func() {
			runtime.LockOSThread() // it ends with its goroutine
			up <- struct{}{}
			<-done
		})
	}
	for range n {
		<-up
	}
	close(done)
	all.Wait()
}

// TestConfined: the process that unpacks layers reaches nothing but its open files, also as
// root.
func TestConfined(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(ln.Addr().String()), 0o644); err != nil {
		t.Fatal(err)
	}
	other := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = other.Process.Kill(), other.Wait() }()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", file, strconv.Itoa(other.Process.Pid))
	cmd.Args[0] = confinedName
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "done\n" {
		t.Errorf("it could: %v\n%s", err, out)
	}
	if left, err := filepath.Glob(file + "*"); err != nil || len(left) != 1 {
		t.Errorf("beside its file there are %v: %v", left, err)
	}
}
