package mux

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// PortPath is the guest's end of the channel: a virtio-serial port named mvm.0.
const PortPath = "/dev/virtio-ports/mvm.0"

// Port is the guest's virtio-serial port. One goroutine may read while another writes.
type Port struct {
	f    *os.File
	raw  syscall.RawConn
	away bool // the last Read told that no host is connected
}

// OpenPort opens the port at the path, PortPath or the /dev/vportNpM that it
// links to. Only one process can have it open.
func OpenPort(path string) (*Port, error) {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Port{f: f, raw: raw}, nil
}

// Read reads what the host sent. The kernel gives an end of file, again and again,
// while no host is connected: Read returns ErrHostAway once, and the next Read
// waits for bytes of the next host without using the CPU.
func (p *Port) Read(b []byte) (int, error) {
	var n int
	var err error
	werr := p.raw.Read(func(fd uintptr) bool {
		for {
			n, err = syscall.Read(int(fd), b)
			if err != syscall.EINTR {
				break
			}
		}
		return err != syscall.EAGAIN && (n != 0 || err != nil || !p.away)
	})
	switch {
	case werr != nil:
		return 0, werr
	case err != nil:
		return 0, &os.PathError{Op: "read", Path: p.f.Name(), Err: err}
	case n == 0:
		p.away = true
		return 0, ErrHostAway
	}
	p.away = false
	return n, nil
}

// Write writes all of b, waiting while the host does not read.
func (p *Port) Write(b []byte) (int, error) { return p.f.Write(b) }

// Close closes the port.
func (p *Port) Close() error { return p.f.Close() }

// SetReadDeadline bounds Read.
func (p *Port) SetReadDeadline(t time.Time) error { return p.f.SetReadDeadline(t) }

// SetWriteDeadline bounds Write.
func (p *Port) SetWriteDeadline(t time.Time) error { return p.f.SetWriteDeadline(t) }
