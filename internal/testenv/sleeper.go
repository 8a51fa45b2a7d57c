package testenv

import (
	"errors"
	"os"
	"syscall"
	"testing"
)

// Sleeper starts a process of the user that waits until the end of the test, and returns its id.
func Sleeper(t testing.TB, uid uint32) int {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := os.StartProcess("/bin/cat", []string{"cat"}, &os.ProcAttr{Files: []*os.File{r, nil, nil}, Sys: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}})
	if err = errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = w.Close()
		_, _ = p.Wait()
	})
	return p.Pid
}
