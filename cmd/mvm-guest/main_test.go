package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/guestproto/mux"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// build builds the program as it is put into images.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "mvm-guest")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

// ttyConn is the host's end of a pseudo-terminal that stands for the port.
type ttyConn struct{ *os.File }

func (ttyConn) LocalAddr() net.Addr  { return nil }
func (ttyConn) RemoteAddr() net.Addr { return nil }

// openPort returns the host's end and the path of the guest's.
func openPort(t *testing.T) (net.Conn, string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := raw.Control(func(fd uintptr) {
		err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0)
		if err == nil {
			n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
		if err == nil { // raw: eight bits, nothing echoed or changed
			err = unix.IoctlSetTermios(int(fd), unix.TCSETS, &unix.Termios{Cflag: unix.CS8 | unix.CREAD, Cc: [19]uint8{unix.VMIN: 1}})
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ttyConn{master}, fmt.Sprintf("/dev/pts/%d", n)
}

// TestOrdinaryService runs the program where it is not PID 1, to its Shutdown.
func TestOrdinaryService(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("secrets on /dev/shm and services need root")
	}
	dir := t.TempDir()
	shm, err := os.MkdirTemp("/dev/shm", "mvm-guest-test")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(shm)
	service := `{"name":"app","command":["/bin/sh","-c","cat ` + shm + `/secrets/token; exec sleep 1000"]}`
	if err := os.MkdirAll(dir+"/services", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/services/app.json", []byte(service), 0o644); err != nil {
		t.Fatal(err)
	}
	host, port := openPort(t)
	var stderr bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, build(t), "-port", port, "-services", dir+"/services", "-secrets", shm+"/secrets",
		"-config", dir+"/config", "-run", dir+"/run", "-data", dir+"/data", "-poweroff", "touch "+dir+"/off")
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := talk(ctx, t, host)
	if err := cmd.Wait(); err != nil {
		t.Errorf("mvm-guest: %v\n%s", err, stderr.String())
	}
	if _, err := os.Stat(dir + "/off"); err != nil {
		t.Errorf("the power-off command was not run: %v", err)
	}
	if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
		t.Errorf("the service lives on: %v", err)
	}
	if strings.Contains(stderr.String(), "sekrit") && !strings.Contains(stderr.String(), "app: sekrit") {
		t.Errorf("the guest agent told a secret:\n%s", stderr.String())
	}
}

// talk configures the guest, waits until it is ready and shuts it down. It returns
// the pid of the service.
func talk(ctx context.Context, t *testing.T, host net.Conn) (pid int) {
	t.Helper()
	session, err := mux.Client(ctx, host)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	ask := func(req guestproto.Request) guestproto.Response {
		conn, err := session.Open(ctx, guestproto.GuestPort)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		resp, err := guestproto.Call(ctx, conn, req)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	ask(guestproto.Request{Ping: true})
	ack := ask(guestproto.Request{Configure: &guestproto.Configure{Reason: "update", TenantID: "alice", PoolID: "workers",
		InstanceID: "i-00000001", Role: mvm.RoleWorker, Secrets: map[string][]byte{"token": []byte("sekrit\n")}}}).ConfigureAck
	if !ack.Success {
		t.Fatalf("configure: %s", *ack.Detail)
	}
	for {
		s := ask(guestproto.Request{Status: true}).Status
		if s.Ready {
			pid = s.Services[0].PID
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("not ready: %s", s.Detail)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if ack := ask(guestproto.Request{Shutdown: &guestproto.Shutdown{GraceSecs: 5}}).ShutdownAck; !ack.Success {
		t.Errorf("shutdown: %+v", ack)
	}
	return pid
}

func TestUsage(t *testing.T) {
	out, err := exec.Command(build(t), "-bogus").CombinedOutput()
	var exit *exec.ExitError
	if e := (*exec.ExitError)(nil); errors.As(err, &e) {
		exit = e
	}
	if exit == nil || exit.ExitCode() != 2 || !strings.Contains(string(out), "bogus") {
		t.Errorf("mvm-guest -bogus: %v\n%s", err, out)
	}
}
