package testenv_test

import (
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mvm/internal/testenv"
)

func TestLeft(t *testing.T) {
	dir := testenv.Dir(t)
	if got := testenv.Left(dir); len(got) > 0 {
		t.Fatalf("a fresh folder has left %v", got)
	}

	l, err := net.Listen("unix", filepath.Join(dir, "v.sock_53"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(testenv.Left(dir), "\n")
	if !strings.Contains(got, "socket "+dir+"/v.sock_53") || !strings.Contains(got, "sleep 1000") {
		t.Errorf("left %q, want the socket and the process", got)
	}
	if got := testenv.Left(dir[:len(dir)-1]); len(got) > 0 {
		t.Errorf("a folder whose name begins alike has left %v", got)
	}

	_ = l.Close()
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if got := testenv.Left(dir); len(got) > 0 {
		t.Errorf("left after the end: %v", got)
	}
}

func TestEventually(t *testing.T) {
	n := 0
	testenv.Eventually(t, time.Minute, func() error {
		if n++; n < 3 {
			return net.ErrClosed
		}
		return nil
	})
	if n != 3 {
		t.Errorf("called %d times, want 3", n)
	}
}
