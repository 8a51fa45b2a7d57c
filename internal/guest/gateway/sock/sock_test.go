package sock_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"mvm/internal/guest/gateway/sock"
)

// pair is a connection over loopback, of which one end is a Conn.
func pair(t *testing.T) (*sock.Conn, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	other, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s, ok := sock.New(c).(*sock.Conn)
	if !ok {
		t.Fatal("a TCP connection is made no Conn")
	}
	t.Cleanup(func() { s.Close(); other.Close() })
	_ = other.SetDeadline(time.Now().Add(20 * time.Second))
	return s, other.(*net.TCPConn)
}

// TestBothWays: what is written arrives whole, and the end is one.
func TestBothWays(t *testing.T) {
	s, other := pair(t)
	sent := bytes.Repeat([]byte("0123456789"), 400_000) // more than the kernel keeps
	done := make(chan error, 1)
	go func() {
		_, err := s.Write(sent)
		done <- errors.Join(err, s.CloseWrite())
	}()
	got, err := io.ReadAll(other)
	if err := errors.Join(err, <-done); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes of %d arrived: %v", len(got), len(sent), err)
	}
	_, _ = other.Write([]byte("back"))
	_ = other.CloseWrite()
	if got, err := io.ReadAll(s); err != nil || string(got) != "back" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestPatience: a write ends where the other side takes nothing for the time, and not where it
// takes little.
func TestPatience(t *testing.T) {
	const patience = 300 * time.Millisecond
	for {
		s, other := pair(t)
		s.Wait(patience)
		done := make(chan error, 1)
		go func() {
			_, err := s.Write(make([]byte, 256<<20))
			done <- err
		}()
		buf, stood := make([]byte, 1<<20), false
		var err error
		for began, last := time.Now(), time.Now(); err == nil && time.Since(began) < 3*patience; last = time.Now() {
			time.Sleep(patience / 20)
			_, err = io.ReadFull(other, buf)
			stood = stood || time.Since(last) > patience/2
		}
		if stood { // the machine did, and with it the other side
			_ = other.Close()
			<-done
			continue
		}
		if err != nil {
			t.Errorf("the write ended while it made progress: %v", err)
		}
		if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a write that nobody takes ended with %v", err)
		}
		return
	}
}

// TestReset: the other side sees that it was cut off.
func TestReset(t *testing.T) {
	s, other := pair(t)
	sock.ResetOnClose(s)
	_ = s.Close()
	if _, err := other.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the other side got %v", err)
	}
}

// TestPeek takes nothing.
func TestPeek(t *testing.T) {
	s, other := pair(t)
	raw, err := s.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	look := func() (n int, errno syscall.Errno) {
		_ = raw.Control(func(fd uintptr) { n, errno = sock.Peek(fd) })
		return n, errno
	}
	if _, errno := look(); errno != syscall.EAGAIN {
		t.Errorf("nothing has come, and the look says %v", errno)
	}
	_, _ = other.Write([]byte("x"))
	for _, errno := look(); errno == syscall.EAGAIN; _, errno = look() {
		time.Sleep(time.Millisecond)
	}
	if n, err := s.Read(make([]byte, 2)); n != 1 || err != nil {
		t.Errorf("after a look %d bytes are there, %v", n, err)
	}
	_ = other.Close()
	for n, errno := look(); n != 0 || errno != 0; n, errno = look() {
		time.Sleep(time.Millisecond)
	}
}
