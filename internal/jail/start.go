package jail

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/sys"
)

const (
	// childName is the name under which the helper runs.
	childName = "mvm-jail"
	// inHelper is set in its environment: what is not linked with RunChild starts no other.
	inHelper = "MVM_IN_JAIL"
	// buildTimeout bounds the time that it takes to build the walls: some milliseconds.
	buildTimeout = 20 * time.Second
	maxAnswer    = 64 << 10
)

// order is what the helper is to do.
type order struct {
	Walls    []Wall            `json:"walls"`
	Required bool              `json:"required"`
	Path     string            `json:"path"` // "": build the walls and say what lacks
	Args     []string          `json:"args"`
	Env      []string          `json:"env"`
	Files    int               `json:"files"` // how many the program has
	UID      int               `json:"uid"`
	GID      int               `json:"gid"`
	Groups   []int             `json:"groups"`
	Root     []string          `json:"root"`
	Devices  []string          `json:"devices"`
	Limits   []Limit           `json:"limits"`
	Filter   []unix.SockFilter `json:"filter"`
}

// answer is what the helper says before it becomes the program, and once more where it can't.
type answer struct {
	Lacks []Lack        `json:"lacks,omitempty"`
	Text  string        `json:"text,omitempty"` // why it did not become the program
	Errno syscall.Errno `json:"errno,omitempty"`
	Ran   bool          `json:"ran,omitempty"` // the walls stand, and the program can't be run
}

// Started is a program behind its walls.
type Started struct {
	*sys.Process
	// Guard is told of refused calls; nil where no filter is.
	Guard *Guard
	Lacks []Lack
}

// Start starts the program. After an error nothing runs.
func (j Jail) Start(ctx context.Context, p Program) (Started, error) {
	if os.Getenv(inHelper) != "" {
		return Started{}, errors.New("start a program: this process is itself the helper of another, and its main does not call RunChild")
	}
	// What this process has inherited itself, from whatever started it, ends here.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return Started{}, fmt.Errorf("close inherited files: %w", err)
	}
	if !j.On {
		return p.plain()
	}
	o, err := j.order(p)
	if err != nil {
		return Started{}, err
	}
	h, err := startHelper(p.Files, slices.Contains(o.Walls, PID))
	if err != nil {
		return Started{}, err
	}
	s, err := h.build(ctx, o, p.Enter)
	if err != nil {
		return Started{}, errors.Join(err, h.end())
	}
	if s.Guard != nil {
		s.Guard.watch(h.Process, j.Learn)
	}
	return s, nil
}

// plain starts the program without walls.
func (p Program) plain() (Started, error) {
	var groups []uint32
	for _, g := range p.Groups {
		groups = append(groups, uint32(g))
	}
	held, err := start(p.Path, p.Args, &os.ProcAttr{Dir: "/", Env: p.Env, Files: p.Files, Sys: &syscall.SysProcAttr{Setsid: true,
		Credential: &syscall.Credential{Uid: uint32(p.UID), Gid: uint32(p.GID), Groups: groups}}})
	if err != nil {
		return Started{}, err
	}
	h := helper{Process: held}
	if p.Enter == nil {
		return Started{Process: held}, nil
	}
	if err = p.Enter(held.PID); err != nil {
		return Started{}, errors.Join(err, h.end())
	}
	return Started{Process: held}, nil
}

// start starts a process and takes hold of it.
func start(path string, args []string, attr *os.ProcAttr) (*sys.Process, error) {
	p, err := os.StartProcess(path, args, attr)
	if err != nil {
		return nil, err
	}
	held, err := sys.OpenProcess(p.Pid)
	if _, lacks := sys.Fault(err); lacks { // nobody else would find it to end it
		_ = p.Kill()
		_, _ = p.Wait()
		return nil, fmt.Errorf("take hold of the process: %w", err)
	}
	_ = p.Release()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEnded, err)
	}
	return held, nil
}

// ErrEnded says that the program ended while it was started.
var ErrEnded = errors.New("it exited at once")

// order is what the helper is told.
func (j Jail) order(p Program) (order, error) {
	o := order{Walls: j.walls(), Required: j.Required, Path: p.Path, Args: p.Args, Env: p.Env, Files: len(p.Files), UID: p.UID, GID: p.GID,
		Groups: p.Groups, Root: p.Root, Devices: p.Devices, Limits: p.Limits}
	if slices.Contains(o.Walls, Seccomp) {
		if j.Learn != nil {
			p.Calls.Names = nil
		}
		filter, err := p.Calls.program()
		if err != nil {
			return o, err
		}
		o.Filter = filter
	}
	return o, nil
}

// helper is the process that becomes the program, and the way to it.
type helper struct {
	*sys.Process
	conn  *net.UnixConn
	lacks []Lack // that are seen from here
}

// startHelper starts it with the files of the program, and the socket behind them.
func startHelper(files []*os.File, pidNamespace bool) (h *helper, err error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	h = &helper{conn: ours}
	launch := func(flags uintptr) (*sys.Process, error) {
		return start("/proc/self/exe", []string{childName, strconv.Itoa(len(files))}, &os.ProcAttr{Dir: "/",
			Env:   []string{"GOGC=off", "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1", "GOTRACEBACK=none", inHelper + "=1"},
			Files: append(slices.Clone(files), theirs), Sys: &syscall.SysProcAttr{Setsid: true, Cloneflags: flags}})
	}
	if pidNamespace {
		if h.Process, err = launch(unix.CLONE_NEWPID); err == nil {
			return h, nil
		}
		h.lacks = []Lack{lack(PID, "create it", err)}
	}
	if h.Process, err = launch(0); err != nil {
		return nil, errors.Join(fmt.Errorf("start the helper: %w", err), ours.Close())
	}
	return h, nil
}

func lack(w Wall, tried string, err error) Lack {
	l := Lack{Wall: w, Text: fmt.Sprintf("%s: %v", tried, err)}
	errors.As(err, &l.Errno)
	return l
}

func socketPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket for the helper: %w", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "jail")
	f := os.NewFile(uintptr(fds[0]), "jail")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn.(*net.UnixConn), theirs, nil
}

// build gives the order and waits until the helper has become the program.
func (h *helper) build(ctx context.Context, o order, enter func(pid int) error) (s Started, err error) {
	defer func() { _ = h.conn.Close() }()
	if o.Required && len(h.lacks) > 0 {
		return s, Refused{h.lacks}
	}
	if enter != nil {
		if err := enter(h.PID); err != nil {
			return s, err
		}
	}
	_ = h.conn.SetDeadline(time.Now().Add(buildTimeout))
	defer context.AfterFunc(ctx, func() { _ = h.conn.SetDeadline(time.Unix(1, 0)) })()
	if err := json.NewEncoder(h.conn).Encode(o); err != nil {
		return s, fmt.Errorf("tell the helper what to start: %w", err)
	}
	said, listener, err := h.read()
	if err != nil {
		return s, errors.Join(err, closeFile(listener))
	}
	s = Started{Process: h.Process, Lacks: append(h.lacks, said.Lacks...)}
	if said.Text == "" && len(said.Lacks) > 0 && o.Required {
		said.Text = "walls are missing"
	}
	switch {
	case said.Text == "" && listener != nil:
		s.Guard = &Guard{f: listener, done: make(chan struct{})}
	case said.Text == "":
	case o.Required && len(s.Lacks) > 0:
		err = Refused{s.Lacks}
	case said.Ran:
		err = &fs.PathError{Op: "fork/exec", Path: o.Path, Err: said.Errno} // as package os says it
	default:
		err = helperError{said}
	}
	if err != nil {
		err = errors.Join(err, closeFile(listener))
	}
	return s, err
}

func closeFile(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

// helperError is what the helper said last.
type helperError struct{ answer }

func (e helperError) Error() string {
	if e.Errno == 0 || strings.HasSuffix(e.Text, e.Errno.Error()) {
		return e.Text
	}
	return e.Text + ": " + e.Errno.Error()
}

func (e helperError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// Refused says that walls are missing which have to stand.
type Refused struct{ Lacks []Lack }

func (r Refused) Error() string { return Missing(r.Lacks) }

// read reads all that the helper says, until it has become the program, and the file that
// comes with it.
func (h *helper) read() (a answer, listener *os.File, err error) {
	var all []byte
	buf, oob := make([]byte, 4096), make([]byte, 64)
	for {
		n, oobn, _, _, rerr := h.conn.ReadMsgUnix(buf, oob)
		all = append(all, buf[:max(0, n)]...)
		if f := fileIn(oob[:max(0, oobn)]); f != nil {
			if listener != nil {
				_ = listener.Close()
			}
			listener = f
		}
		if n == 0 && rerr == nil {
			rerr = io.EOF
		}
		if len(all) > maxAnswer {
			rerr = errors.New("it says too much")
		}
		if errors.Is(rerr, io.EOF) {
			break
		}
		if rerr != nil {
			return a, listener, fmt.Errorf("wait until the helper has built the walls: %w", rerr)
		}
	}
	d := json.NewDecoder(bytes.NewReader(all))
	for said := 0; ; said++ {
		var one answer
		if err := d.Decode(&one); errors.Is(err, io.EOF) && said > 0 {
			return a, listener, nil
		} else if err != nil {
			return a, listener, fmt.Errorf("%w: %w", ErrEnded, err)
		}
		one.Lacks = append(a.Lacks, one.Lacks...)
		a = one
	}
}

// fileIn is the file that came with a message.
func fileIn(oob []byte) *os.File {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(msgs) != 1 {
		return nil
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil
	}
	unix.CloseOnExec(fds[0])
	_ = unix.SetNonblock(fds[0], true) // so that who waits for it can be called off
	return os.NewFile(uintptr(fds[0]), "seccomp")
}

// end ends the process and waits for it.
func (h *helper) end() error {
	err := h.Signal(syscall.SIGKILL)
	if errors.Is(err, sys.ErrNoProcess) {
		err = nil
	}
	_, _, _, werr := h.Wait()
	return errors.Join(err, werr, h.Process.Close())
}

// Check builds the walls around a helper that becomes no program, and says what lacks.
func (j Jail) Check(ctx context.Context) ([]Lack, error) {
	if os.Getenv(inHelper) != "" {
		return nil, errors.New("this process is itself a helper")
	}
	o, err := j.order(Program{UID: nobody, GID: nobody, Calls: Calls{}, Limits: []Limit{{unix.RLIMIT_CORE, 0}}})
	if err != nil {
		return nil, err
	}
	o.Required = false
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	o.Files = 3
	h, err := startHelper([]*os.File{null, null, null}, slices.Contains(o.Walls, PID))
	if err != nil {
		return nil, err
	}
	s, err := h.build(ctx, o, nil)
	if s.Guard != nil {
		_ = s.Guard.f.Close()
	}
	return s.Lacks, errors.Join(err, h.end())
}

// nobody is the user of a helper that becomes no program.
const nobody = 65534
