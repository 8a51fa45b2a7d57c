package jail

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"mvm/internal/sys"
)

// Guard is asked by the kernel about calls that are not on a program's list. It ends the
// program, and remembers the first call.
type Guard struct {
	f    *os.File
	done chan struct{}

	mu    sync.Mutex
	first string
}

// Refused is the call for which the program was ended, "" where none is known.
func (g *Guard) Refused() string {
	if g == nil {
		return ""
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.first
}

// Close lets go of the program: calls that are not on its list fail with ENOSYS from then on.
func (g *Guard) Close() error {
	if g == nil {
		return nil
	}
	err := g.f.SetReadDeadline(time.Unix(1, 0))
	<-g.done
	return errors.Join(err, g.f.Close())
}

// question is struct seccomp_notif, and reply struct seccomp_notif_resp.
type question struct {
	ID         uint64
	PID, Flags uint32
	NR         int32
	Arch       uint32
	IP         uint64
	Args       [6]uint64
}

type reply struct {
	ID           uint64
	Value        int64
	Error, Flags uint32
}

// watch answers the kernel until the program has ended, or Close.
func (g *Guard) watch(p *sys.Process, learn func(call string)) {
	go func() {
		defer close(g.done)
		raw, err := g.f.SyscallConn()
		if err != nil {
			return
		}
		for {
			var n question
			var nerr error
			if err := raw.Read(func(fd uintptr) bool { nerr = receive(fd, &n); return !errors.Is(nerr, unix.EAGAIN) }); err != nil {
				return
			}
			switch {
			case errors.Is(nerr, unix.EINTR):
			case errors.Is(nerr, unix.ENOENT): // of a thread that is gone
				if !alive(raw) {
					return
				}
			case nerr != nil:
				return
			case learn != nil:
				learn(describe(n))
				_ = raw.Control(func(fd uintptr) { letThrough(fd, n.ID) })
			default:
				g.refuse(describe(n))
				_ = p.Signal(syscall.SIGKILL)
			}
		}
	}()
}

func (g *Guard) refuse(call string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.first == "" {
		g.first = call
	}
}

// describe names the call, and the argument that conditions are about.
func describe(n question) string {
	name := callName(int(n.NR))
	switch name {
	case "openat":
		return fmt.Sprintf("openat(flags=%#x)", uint32(n.Args[2]))
	case "ioctl", "fcntl":
		return fmt.Sprintf("%s(%#x)", name, uint32(n.Args[1]))
	case "clone", "prctl", "socket":
		return fmt.Sprintf("%s(%#x)", name, uint32(n.Args[0]))
	}
	return name
}

// ready reports what the filter's file says of itself, without waiting.
func ready(fd uintptr) int16 {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 0); err != nil || n == 0 {
		return 0
	}
	return fds[0].Revents
}

// receive takes a question; EAGAIN where there is none yet, ENOENT where the program is gone.
func receive(fd uintptr, n *question) error {
	switch r := ready(fd); {
	case r&unix.POLLIN != 0:
	case r&unix.POLLHUP != 0:
		return unix.ENOENT
	default:
		return unix.EAGAIN
	}
	*n = question{}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(n)))
	if errno != 0 {
		return errno
	}
	return nil
}

// alive reports whether anybody has the filter still.
func alive(raw syscall.RawConn) (yes bool) {
	_ = raw.Control(func(fd uintptr) { yes = ready(fd)&unix.POLLHUP == 0 })
	return yes
}

// letThrough has the call made.
func letThrough(fd uintptr, id uint64) {
	answer := reply{ID: id, Flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, fd, unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&answer)))
}
