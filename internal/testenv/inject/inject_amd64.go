package inject

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrEnded says that the call ended the process, as a seccomp filter does that refuses it.
var ErrEnded = errors.New("the call ended the process")

// scratchSize is what there is for strings and buffers of calls.
const scratchSize = 64 << 10

// Thread is a thread that stands still between calls.
type Thread struct {
	pid, tid int
	entry    uint64 // of a syscall instruction
	saved    unix.PtraceRegs
	scratch  uint64 // of scratchSize bytes
	used     uint64
	signals  []syscall.Signal // that came meanwhile
	gone     bool
}

// Into stops the thread tid of the process pid, calls fn, and lets the thread go on as if
// nothing had been. The other threads run meanwhile.
func Into(pid, tid int, fn func(t *Thread) error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: what is still traced is let go with the thread
		err := errors.New("the function did not return: it may not fail the test itself")
		defer func() { done <- err }()
		err = into(pid, tid, fn)
	}()
	return <-done
}

// PID is the process's number.
func (t *Thread) PID() int { return t.pid }

func into(pid, tid int, fn func(t *Thread) error) error {
	t := &Thread{pid: pid, tid: tid}
	if err := t.seize(); err != nil {
		return fmt.Errorf("seize thread %d: %w", tid, err)
	}
	var err error
	if t.entry, err = syscallInstruction(pid); err == nil {
		if t.scratch, err = t.Call(unix.SYS_MMAP, 0, scratchSize, unix.PROT_READ|unix.PROT_WRITE,
			unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, ^uint64(0), 0); err == nil {
			err = fn(t)
		}
	}
	if t.gone {
		return err
	}
	_, uerr := t.Call(unix.SYS_MUNMAP, t.scratch, scratchSize)
	return errors.Join(err, uerr, t.release())
}

func (t *Thread) seize() error {
	if err := ptrace(unix.PTRACE_SEIZE, t.tid, unix.PTRACE_O_TRACESYSGOOD); err != nil {
		return err
	}
	if err := ptrace(unix.PTRACE_INTERRUPT, t.tid, 0); err != nil {
		return err
	}
	for {
		st, err := t.wait()
		if err != nil {
			return err
		}
		if int(st)>>16 == unix.PTRACE_EVENT_STOP {
			break
		}
		t.keep(st)
		if err := ptrace(unix.PTRACE_CONT, t.tid, 0); err != nil {
			return err
		}
	}
	if err := unix.PtraceGetRegs(t.tid, &t.saved); err != nil {
		return err
	}
	t.saved = goOn(t.saved)
	return nil
}

// goOn is how a thread goes on that was stopped within a system call: it makes it again,
// or sees it interrupted, as the kernel itself would have it.
func goOn(r unix.PtraceRegs) unix.PtraceRegs {
	const restartSys, restartBlock = 512, 516 // ERESTARTSYS to ERESTART_RESTARTBLOCK
	if code := -int64(r.Rax); int64(r.Orig_rax) >= 0 && code >= restartSys && code <= restartBlock {
		if code == restartBlock {
			r.Rax = negative(unix.EINTR)
		} else {
			r.Rax, r.Rip = r.Orig_rax, r.Rip-2
		}
	}
	r.Orig_rax = ^uint64(0)
	return r
}

func negative(e syscall.Errno) uint64 { return -uint64(e) }

// release lets the thread go on where it was stopped.
func (t *Thread) release() error {
	err := unix.PtraceSetRegs(t.tid, &t.saved)
	err = errors.Join(err, ptrace(unix.PTRACE_DETACH, t.tid, 0))
	for _, s := range t.signals {
		err = errors.Join(err, unix.Tgkill(t.pid, t.tid, s))
	}
	return err
}

// Exit has the thread alone exit. Nothing can be done in it any more.
func (t *Thread) Exit() error {
	r := t.call(unix.SYS_EXIT, nil)
	t.gone = true
	if err := unix.PtraceSetRegs(t.tid, &r); err != nil {
		return err
	}
	return ptrace(unix.PTRACE_DETACH, t.tid, 0)
}

// Call makes the system call. An argument is a number, or a string or bytes, of which the
// address is passed; bytes hold afterwards what the call has left there. The error is the
// call's errno, or ErrEnded.
func (t *Thread) Call(nr uint64, args ...any) (uint64, error) {
	used := t.used
	defer func() { t.used = used }()
	var in []uint64
	back := map[uint64][]byte{}
	for _, a := range args {
		n, err := t.argument(a)
		if err != nil {
			return 0, err
		}
		if b, ok := a.([]byte); ok {
			back[n] = b
		}
		in = append(in, n)
	}
	out, err := t.do(nr, in)
	for at, b := range back {
		if err == nil {
			err = t.Read(at, b)
		}
	}
	return out, err
}

func (t *Thread) argument(a any) (uint64, error) {
	switch a := a.(type) {
	case int:
		return uint64(a), nil
	case uint64:
		return a, nil
	case string:
		return t.Put(append([]byte(a), 0))
	case []byte:
		return t.Put(a)
	}
	return 0, fmt.Errorf("pass a %T to a system call: it is neither number nor bytes", a)
}

// Put copies the bytes to the process, until the call is made that they are put for, and
// returns their address.
func (t *Thread) Put(b []byte) (uint64, error) {
	at := t.scratch + t.used
	if t.used += (uint64(len(b)) + 15) &^ 15; t.used > scratchSize {
		return 0, fmt.Errorf("pass %d bytes to a system call: there is no room", len(b))
	}
	return at, t.Write(at, b)
}

func (t *Thread) call(nr uint64, in []uint64) unix.PtraceRegs {
	var a [6]uint64
	copy(a[:], in)
	r := t.saved
	r.Rip, r.Rax, r.Orig_rax = t.entry, nr, ^uint64(0)
	r.Rdi, r.Rsi, r.Rdx, r.R10, r.R8, r.R9 = a[0], a[1], a[2], a[3], a[4], a[5]
	return r
}

// do makes the call from its entry to its end.
func (t *Thread) do(nr uint64, in []uint64) (uint64, error) {
	if t.gone {
		return 0, ErrEnded
	}
	r := t.call(nr, in)
	if err := unix.PtraceSetRegs(t.tid, &r); errors.Is(err, unix.ESRCH) {
		t.gone = true
		return 0, ErrEnded
	} else if err != nil {
		return 0, fmt.Errorf("set registers: %w", err)
	}
	for range 2 { // the entry, and the end
		if err := t.toStop(); err != nil {
			return 0, err
		}
	}
	if err := unix.PtraceGetRegs(t.tid, &r); errors.Is(err, unix.ESRCH) {
		t.gone = true
		return 0, ErrEnded
	} else if err != nil {
		return 0, fmt.Errorf("read registers: %w", err)
	}
	if n := int64(r.Rax); n < 0 && n > -4096 {
		return 0, syscall.Errno(-n)
	}
	return r.Rax, nil
}

// toStop runs the thread to the next entry or end of a system call.
func (t *Thread) toStop() error {
	for {
		err := ptrace(unix.PTRACE_SYSCALL, t.tid, 0)
		if errors.Is(err, unix.ESRCH) { // it does not stand still any more: it was killed
			t.gone = true
			return ErrEnded
		}
		if err != nil {
			return fmt.Errorf("let the thread run: %w", err)
		}
		st, err := t.wait()
		if err != nil {
			return err
		}
		if st.StopSignal() == syscall.SIGTRAP|0x80 {
			return nil
		}
		t.keep(st)
	}
}

// waitPoll is the time between two looks at a thread that runs.
const waitPoll = 200 * time.Microsecond

// wait waits for the thread's next stop. A main thread that has ended is told of only when
// all others have too: that is not waited for.
func (t *Thread) wait() (unix.WaitStatus, error) {
	for ; ; time.Sleep(waitPoll) {
		pid, st, err := t.look()
		switch {
		case errors.Is(err, unix.EINTR), err == nil && pid == 0 && !t.zombie():
			continue
		case err == nil && pid == 0, errors.Is(err, unix.ECHILD): // or somebody else has seen its end
			t.gone = true
			return 0, fmt.Errorf("%w, or its thread", ErrEnded)
		case err != nil:
			return 0, fmt.Errorf("wait for the thread: %w", err)
		case st.Signaled():
			t.gone = true
			return 0, fmt.Errorf("%w: %v", ErrEnded, st.Signal())
		case st.Exited():
			t.gone = true
			return 0, ErrEnded
		}
		return st, nil
	}
}

// look is wait4 that does not wait. Of a process that this one has started it takes no end,
// or who waits for that would not learn how it was; zombie sees it.
func (t *Thread) look() (pid int, st unix.WaitStatus, err error) {
	if t.tid != t.pid || parent(t.pid) != os.Getpid() {
		pid, err = unix.Wait4(t.tid, &st, unix.WALL|unix.WNOHANG, nil)
		return pid, st, err
	}
	var info struct { // siginfo_t of a child, on 64 bits
		signo, errno, code, _, pid, uid, status int32
		_                                       [25]int32
	}
	_, _, errno := unix.Syscall6(unix.SYS_WAITID, unix.P_PID, uintptr(t.tid), uintptr(unsafe.Pointer(&info)), unix.WSTOPPED|unix.WALL|unix.WNOHANG, 0, 0)
	if errno != 0 {
		return 0, 0, errno
	}
	if info.signo == 0 {
		return 0, 0, nil
	}
	return int(info.pid), unix.WaitStatus(info.status<<8 | 0x7f), nil
}

// parent is the process's parent, 0 where it is gone.
func parent(pid int) (ppid int) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]); len(f) > 1 {
		ppid, _ = strconv.Atoi(string(f[1]))
	}
	return ppid
}

func (t *Thread) zombie() bool {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", t.tid)) // what is not there any more is waited for
	_, state, _ := bytes.Cut(b, []byte(") "))
	return bytes.HasPrefix(state, []byte("Z"))
}

// keep notes a signal that was about to be delivered.
func (t *Thread) keep(st unix.WaitStatus) {
	if int(st)>>16 == 0 && st.Stopped() {
		t.signals = append(t.signals, st.StopSignal())
	}
}

// Read and Write copy memory of the process.
func (t *Thread) Read(at uint64, b []byte) error { return t.memory(at, b, (*os.File).ReadAt) }

func (t *Thread) Write(at uint64, b []byte) error { return t.memory(at, b, (*os.File).WriteAt) }

func (t *Thread) memory(at uint64, b []byte, move func(*os.File, []byte, int64) (int, error)) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/task/%d/mem", t.pid, t.tid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = move(f, b, int64(at))
	return errors.Join(err, f.Close())
}

// Rename has the process show other arguments, as far as there is room for them.
func (t *Thread) Rename(args string) error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", t.pid))
	if err != nil {
		return err
	}
	const argStart = 48 - 3 // counted from the field behind the name
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < argStart+2 {
		return fmt.Errorf("parse /proc/%d/stat: %d fields", t.pid, len(f))
	}
	start, err1 := strconv.ParseUint(f[argStart], 10, 64)
	end, err2 := strconv.ParseUint(f[argStart+1], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	text := make([]byte, end-start)
	copy(text, args)
	_, err = t.Call(unix.SYS_PRCTL, unix.PR_SET_NAME, "kworker/0:1")
	return errors.Join(err, t.Write(start, text))
}

// syscallInstruction finds one in what the kernel maps into every process.
func syscallInstruction(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if !strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			continue
		}
		var from, to uint64
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
			return 0, err
		}
		f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
		if err != nil {
			return 0, err
		}
		defer f.Close()
		code := make([]byte, to-from)
		if _, err := f.ReadAt(code, int64(from)); err != nil {
			return 0, err
		}
		if i := bytes.Index(code, []byte{0x0f, 0x05}); i >= 0 {
			return from + uint64(i), nil
		}
	}
	return 0, errors.New("the process has no system call of the kernel's own")
}

// ptrace is a request without an address.
func ptrace(request, tid int, data uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), 0, data, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
