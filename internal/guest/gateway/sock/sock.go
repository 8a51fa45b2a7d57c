// Package sock has TCP connections whose reads and writes are raw system calls.
package sock

import (
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// Conn is a TCP connection whose reads and writes Go's scheduler is not told of. None of
// them waits, for the socket does not block; and what the scheduler does about a system
// call that might wait, with a thread that looks after it, cost a tenth of a request.
//
// One goroutine at a time reads, and one writes.
type Conn struct {
	*net.TCPConn
	raw     syscall.RawConn
	in, out transfer

	patience atomic.Int64 // how long a write waits for the other side to take some of it; 0: as long as it will
	limited  bool         // the write under way has a deadline by that
	taken    int          // bytes that had passed when it was set
}

// transfer is a read or a write under way.
type transfer struct {
	try func(fd uintptr) bool // false: it is to wait
	p   []byte                // what is left
	n   int                   // bytes that passed
	err syscall.Errno
}

// New returns the connection as a Conn where it is one of TCP.
func New(c net.Conn) net.Conn {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return c
	}
	s := &Conn{TCPConn: tcp, raw: raw}
	s.in.try, s.out.try = s.tryRead, s.tryWrite
	return s
}

// SyscallConn is that of the connection.
func (s *Conn) SyscallConn() (syscall.RawConn, error) { return s.raw, nil }

// Read reads what is there, or waits.
func (s *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.in.p, s.in.n, s.in.err = p, 0, 0
	err := s.raw.Read(s.in.try)
	s.in.p = nil
	switch {
	case err != nil:
		return 0, err
	case s.in.err != 0:
		return 0, os.NewSyscallError("read", s.in.err)
	case s.in.n == 0:
		return 0, io.EOF
	}
	return s.in.n, nil
}

func (s *Conn) tryRead(fd uintptr) bool {
	t := &s.in
	for {
		n, _, err := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(t.p))), uintptr(len(t.p)), 0, 0, 0)
		switch err {
		case syscall.EINTR:
			continue
		case 0:
			t.n = int(n)
		}
		t.err = err
		return err != syscall.EAGAIN
	}
}

// Write writes all of p, unless it fails.
func (s *Conn) Write(p []byte) (int, error) {
	s.out.p, s.out.n, s.out.err = p, 0, 0
	err := s.raw.Write(s.out.try)
	s.out.p = nil
	if s.limited && err == nil {
		s.limited = false
		_ = s.SetWriteDeadline(NoDeadline)
	}
	if err == nil && s.out.err != 0 {
		err = os.NewSyscallError("write", s.out.err)
	}
	return s.out.n, err
}

func (s *Conn) tryWrite(fd uintptr) bool {
	t := &s.out
	for len(t.p) > 0 {
		n, _, err := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(t.p))), uintptr(len(t.p)), syscall.MSG_NOSIGNAL, 0, 0)
		switch err {
		case 0:
			t.n += int(n)
			t.p = t.p[n:]
		case syscall.EINTR:
		case syscall.EAGAIN:
			s.limit()
			return false
		default:
			t.err = err
			return true
		}
	}
	return true
}

// limit gives the write under way the time to make progress.
func (s *Conn) limit() {
	if s.limited && s.taken == s.out.n {
		return
	}
	for d := s.patience.Load(); d > 0; {
		s.limited, s.taken = true, s.out.n
		_ = s.SetWriteDeadline(time.Now().Add(time.Duration(d)))
		was := d
		if d = s.patience.Load(); d == was {
			return
		}
	}
}

// Wait sets how long writes wait for the other side to take some; 0: as long as it will.
func (s *Conn) Wait(d time.Duration) { s.patience.Store(int64(d)) }

// Hurry sets how long writes wait for progress, the one under way too.
func (s *Conn) Hurry(d time.Duration) {
	s.patience.Store(int64(d))
	_ = s.SetWriteDeadline(time.Now().Add(d))
}

// Peek looks whether anything has come, and takes nothing: 1 where something has, 0 where
// the other side has ended.
func Peek(fd uintptr) (n int, err syscall.Errno) {
	var b [1]byte
	r, _, err := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b)), 1, syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
	if err != 0 {
		return 0, err
	}
	return int(r), 0
}

// ResetOnClose has a TCP connection reset when it is closed, and not ended in order.
func ResetOnClose(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0)
	}
}

// LongAgo is a deadline that has passed.
var LongAgo = time.Unix(1, 0)

// NoDeadline lets a read or a write take as long as it will.
var NoDeadline time.Time
