package rundir

import (
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/sys"
)

// logBytes bounds what a VMM can say: its log is a pipe of that size, in memory that is taken
// as it fills. What does not fit is lost, and a VMM never waits for it: an end of its own that
// does not block. Nothing needs to read it meanwhile.
const logBytes = 16 << 10

// tailBytes is how much of the end is told.
const tailBytes = 1024

// Log is what a VMM itself says, as this process holds it: it is there as long as the VMM runs
// or a Log is open. Its methods may be called at once, and on nil: then nothing was said.
type Log struct{ f *os.File }

// MakeLog makes the log of a VMM that is to be started. vmm is the VMM's end.
func MakeLog(runDir string) (vmm *os.File, l *Log, err error) {
	err = sys.InFolder(runDir, func(d *sys.Folder) error {
		held, err := d.MakePipe(LogFile, -1)
		if err != nil {
			return err
		}
		l = &Log{held}
		vmm, err = sys.PipeEnd(held, logBytes)
		return err
	})
	if err != nil {
		l.Close()
		return nil, nil, mvm.Explain("make the VMM's log", err)
	}
	return vmm, l, nil
}

// OpenLog opens the log of a VMM that runs, nil where it has none. VMMs that an older version
// started write to a file.
func OpenLog(runDir string) *Log {
	var l *Log
	_ = sys.InFolder(runDir, func(d *sys.Folder) error {
		f, err := d.OpenPipe(LogFile)
		if err != nil {
			f, err = d.Open(LogFile, os.O_RDONLY)
		}
		if err == nil {
			l = &Log{f}
		}
		return err
	})
	return l
}

// Close lets go of the log.
func (l *Log) Close() {
	if l != nil {
		_ = l.f.Close()
	}
}

// Tail returns the last lines of what the VMM said, at most 1 KiB. It takes nothing away.
func (l *Log) Tail() string {
	if l == nil {
		return ""
	}
	st, err := l.f.Stat()
	if err != nil {
		return ""
	}
	b := make([]byte, tailBytes)
	if st.Mode()&os.ModeNamedPipe != 0 {
		b = l.held()
	} else if n, err := l.f.ReadAt(b, max(0, st.Size()-tailBytes)); err == nil || errors.Is(err, io.EOF) {
		b = b[:n]
	}
	b = b[max(0, len(b)-tailBytes):]
	return strings.Join(strings.Fields(strings.ToValidUTF8(string(b), "?")), " ")
}

// held is all that the pipe holds.
func (l *Log) held() []byte {
	var to [2]int
	if err := unix.Pipe2(to[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil
	}
	defer unix.Close(to[0])
	defer unix.Close(to[1])
	n := l.do(func(fd int) (int, error) {
		n, err := unix.Tee(fd, to[1], 2*logBytes, unix.SPLICE_F_NONBLOCK)
		return int(n), err
	})
	b := make([]byte, max(n, 0))
	n, err := unix.Read(to[0], b)
	if err != nil {
		return nil
	}
	return b[:n]
}

// Trim makes room where the log is filling up: its beginning goes.
func (l *Log) Trim() {
	if l == nil {
		return
	}
	n := l.do(func(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.TIOCINQ) })
	if n <= logBytes/4 {
		return
	}
	l.do(func(fd int) (int, error) { return unix.Read(fd, make([]byte, n-2*tailBytes)) })
}

// do has fn work on the descriptor; -1 where it can't.
func (l *Log) do(fn func(fd int) (int, error)) (n int) {
	raw, err := l.f.SyscallConn()
	if err != nil {
		return -1
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { n, ferr = fn(int(fd)) }); err != nil || ferr != nil {
		return -1
	}
	return n
}
