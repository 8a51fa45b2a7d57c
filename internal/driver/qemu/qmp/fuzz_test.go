package qmp_test

import (
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"mvm/internal/driver/qemu/qmp"
)

// socketpair returns two connected unix sockets.
func socketpair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]*net.UnixConn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
	}
	return conns[0], conns[1]
}

// FuzzVMM: whatever a VMM says, the client neither fails badly nor hangs.
func FuzzVMM(f *testing.F) {
	f.Add([]byte(hello + `{"return": {}, "id": "x"}` + "\n"))
	f.Add([]byte(hello + `{"event": "STOP"}` + "\n" + `{"error": {"class": 1}}` + "\n[]\nnull\n\"x\"\n"))
	f.Add([]byte(`{"QMP": null}` + "\n\n\n{"))
	f.Fuzz(func(t *testing.T, said []byte) {
		conn, vmm := socketpair(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer vmm.Close()
			vmm.SetDeadline(time.Now().Add(5 * time.Second))
			vmm.Write(said)
		}()
		c, err := qmp.New(ctx(t, 5*time.Second), conn, func(qmp.Event) {})
		if err == nil {
			var out struct{ Status string }
			c.Do(ctx(t, 5*time.Second), "query-status", nil, &out)
			c.Close()
		}
		<-done
	})
}
