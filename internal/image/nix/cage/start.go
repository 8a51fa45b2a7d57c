package cage

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/sys"
)

// buildTimeout bounds building a cage, which takes some milliseconds.
const buildTimeout = time.Minute

// maxLine clips lines of standard error.
const maxLine = 64 << 10

// Cage is a running cage. One command runs in it at a time; Close may be called at any time.
type Cage struct {
	config   Config
	ctx      context.Context
	cancel   context.CancelCauseFunc
	cmd      *exec.Cmd
	orders   *os.File
	frames   *bufio.Reader
	answers  *os.File
	listener net.Listener
	group    []string      // folders of its cgroup
	logged   chan struct{} // closed at the end of the log
	told     chan struct{} // has an element when the log of a command was handed on

	once sync.Once
	err  error
}

// Start builds a cage. It ends with the context, after Config.Within, and with Close, which
// has to be called.
func Start(ctx context.Context, c Config) (*Cage, error) {
	if os.Geteuid() != 0 {
		return nil, refused(Piece{pieceRoot, fmt.Sprintf("the agent is user %d", os.Geteuid())})
	}
	if err := sys.CgroupsBound(""); err != nil {
		return nil, refused(Piece{pieceCgroup, err.Error()})
	}
	sweep()
	g := &Cage{config: c, logged: make(chan struct{}), told: make(chan struct{}, 1)}
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	files, ours, err := g.pipes()
	if err != nil {
		g.cancel(err)
		return nil, err
	}
	defer ours.Close()
	err = g.launch(files)
	for _, f := range files {
		_ = f.Close()
	}
	if err != nil {
		g.cancel(err)
		return nil, errors.Join(refused(Piece{pieceSpaces, err.Error()}), g.orders.Close(), g.answers.Close())
	}
	if err := g.build(ours); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// pipes makes the ways to the first process: its files, from standard input on, and the
// socket over which it gives the listener.
func (g *Cage) pipes() (theirs []*os.File, socket *net.UnixConn, err error) {
	in, orders, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	answers, out, err := os.Pipe()
	if err != nil {
		return nil, nil, errors.Join(err, in.Close(), orders.Close())
	}
	socket, give, err := socketPair()
	if err != nil {
		return nil, nil, errors.Join(err, in.Close(), orders.Close(), answers.Close(), out.Close())
	}
	g.orders, g.answers, g.frames = orders, answers, bufio.NewReaderSize(answers, maxFrame)
	return []*os.File{in, out, give}, socket, nil
}

func socketPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	theirs = os.NewFile(uintptr(fds[1]), "cage")
	f := os.NewFile(uintptr(fds[0]), "cage")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return c.(*net.UnixConn), theirs, nil
}

// launch starts the first process, which waits for its order.
func (g *Cage) launch(files []*os.File) error {
	// What this process has inherited itself, from whatever started it, ends here.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close inherited files: %w", err)
	}
	g.cmd = exec.CommandContext(g.ctx, Self)
	g.cmd.Args, g.cmd.Dir, g.cmd.Env = []string{buildName}, "/", []string{"GOTRACEBACK=none", "GOMAXPROCS=2"}
	g.cmd.Stdin, g.cmd.Stdout, g.cmd.ExtraFiles = files[0], files[1], files[2:]
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true,
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS}
	said, log, err := os.Pipe()
	if err != nil {
		return err
	}
	g.cmd.Stderr = log
	if err := g.cmd.Start(); err != nil {
		close(g.logged)
		return errors.Join(err, said.Close(), log.Close())
	}
	go func() {
		defer close(g.logged)
		defer said.Close()
		g.follow(said)
	}()
	return log.Close()
}

// follow hands on what the cage says on standard error. Lines are clipped: what is beyond the
// reader's size goes.
func (g *Cage) follow(said io.Reader) {
	r := bufio.NewReaderSize(said, maxLine)
	for {
		line, err := r.ReadSlice('\n')
		text := bytes.TrimSuffix(line, []byte("\n"))
		if string(text) == endOfLog {
			select {
			case g.told <- struct{}{}:
			default:
			}
		} else if len(text) > 0 && g.ctx.Err() == nil {
			if lerr := g.config.Log(text); lerr != nil {
				g.cancel(lerr)
			}
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = r.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}

// build has the first process build the cage, and waits until it stands.
func (g *Cage) build(ours *net.UnixConn) error {
	c, first := g.config, g.cmd.Process.Pid
	group, err := sys.EnterCgroup(groupName(first), first, sys.CgroupLimits{MemoryBytes: c.Disk + c.Memory, PIDs: c.Processes})
	if g.group = group; err != nil {
		return refused(Piece{pieceCgroup, err.Error()})
	}
	late := time.AfterFunc(buildTimeout, func() {
		g.cancel(mvm.Errorf(mvm.KindUnavailable, "build a cage for Nix: it did not stand after %s", buildTimeout))
	})
	defer late.Stop()
	o := order{User: firstUser + first, Disk: c.Disk, Inodes: c.Inodes, Processes: c.Processes, Files: c.Files, Seconds: int(c.Within / time.Second),
		Show: c.Show, Binds: c.Binds, Texts: c.Texts, Own: c.Own}
	if err := sendSized(g.orders, o); err != nil {
		return g.ended(fmt.Errorf("tell the cage what it is: %w", err))
	}
	kind, payload, err := readFrame(g.frames)
	if err != nil {
		return g.ended(fmt.Errorf("wait for the cage: %w", err))
	}
	if kind != frameReady {
		var p Piece
		if err := json.Unmarshal(payload, &p); err != nil {
			return fmt.Errorf("read what a cage lacks: %w", err)
		}
		return refused(p)
	}
	g.listener, err = receive(ours)
	return err
}

// receive takes the listener in the cage's network.
func receive(conn *net.UnixConn) (net.Listener, error) {
	if err := conn.SetDeadline(time.Now().Add(buildTimeout)); err != nil {
		return nil, err
	}
	oob := make([]byte, 64)
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return nil, fmt.Errorf("take the listener of a cage: %w", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return nil, fmt.Errorf("take the listener of a cage: %d messages, %w", len(msgs), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("take the listener of a cage: %d files, %w", len(fds), err)
	}
	unix.CloseOnExec(fds[0])
	f := os.NewFile(uintptr(fds[0]), "listener")
	defer f.Close()
	return net.FileListener(f)
}

// Listener accepts connections that are made in the cage to its address on 127.0.0.1: the only
// way out of its network. Close closes it.
func (g *Cage) Listener() net.Listener { return g.listener }

// Run runs a command and hands what it writes to standard output to the function. It returns
// when the command has ended, and with it all that it has left running. An error of output
// ends the cage. A command that fails is an *ExitError.
func (g *Cage) Run(c Command, output func(p []byte) error) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if len(b) > maxOrder {
		return fmt.Errorf("a command of %d bytes", len(b))
	}
	select {
	case <-g.told: // of a command that was
	default:
	}
	if _, err := g.orders.Write(append(b, '\n')); err != nil {
		return g.ended(fmt.Errorf("run %s: %w", c.Args[0], err))
	}
	return g.answer(c, output)
}

// answer reads what a command writes and how it ends.
func (g *Cage) answer(c Command, output func(p []byte) error) error {
	for {
		kind, payload, err := readFrame(g.frames)
		if err != nil {
			return g.ended(fmt.Errorf("run %s: %w", c.Args[0], err))
		}
		switch kind {
		case frameOutput:
			if err := output(payload); err != nil {
				g.cancel(err)
				return err
			}
		case frameExit:
			select {
			case <-g.told:
			case <-g.logged:
			}
			return exitOf(c, payload)
		default:
			return fmt.Errorf("run %s: the cage sent %q", c.Args[0], kind)
		}
	}
}

// ExitError is how a command has failed.
type ExitError struct {
	Name   string
	Code   int    // -1: by a signal
	Signal int    // 0: none
	Text   string // why it was not started, "" where it was
}

func (e *ExitError) Error() string {
	switch {
	case e.Text != "":
		return fmt.Sprintf("run %s: %s", e.Name, e.Text)
	case e.Signal != 0:
		return fmt.Sprintf("%s was ended by signal %d (%s)", e.Name, e.Signal, syscall.Signal(e.Signal))
	}
	return fmt.Sprintf("%s exited with status %d", e.Name, e.Code)
}

func exitOf(c Command, payload []byte) error {
	var e exit
	if err := json.Unmarshal(payload, &e); err != nil {
		return fmt.Errorf("run %s: %w", c.Args[0], err)
	}
	if e.Code == 0 && e.Text == "" {
		return nil
	}
	return &ExitError{c.Args[0], e.Code, e.Signal, e.Text}
}

// ended says why the cage is gone: the context's reason, where there is one.
func (g *Cage) ended(err error) error {
	if g.ctx.Err() != nil {
		return context.Cause(g.ctx)
	}
	werr := g.Close()
	if state := g.cmd.ProcessState; state != nil && !state.Success() {
		return mvm.Errorf(mvm.KindInvalid, "the cage ended: %s", state).
			WithFix("it may have used more memory than its %d MiB, or more time than %s", (g.config.Disk+g.config.Memory)>>20, g.config.Within)
	}
	return errors.Join(err, werr)
}

// Close ends the cage and all that is in it, and returns when it is gone.
func (g *Cage) Close() error {
	g.once.Do(func() {
		g.cancel(errors.New("the cage was closed"))
		_ = g.cmd.Wait() // it was killed
		<-g.logged
		g.err = errors.Join(g.orders.Close(), g.answers.Close())
		if g.listener != nil {
			if err := g.listener.Close(); !errors.Is(err, net.ErrClosed) {
				g.err = errors.Join(g.err, err)
			}
		}
		g.err = errors.Join(g.err, sys.LeaveCgroup(g.group))
	})
	return g.err
}

// sweep removes the cgroups of cages whose process has ended: their processes went with it.
func sweep() {
	names, err := sys.CgroupsHere()
	if err != nil {
		return
	}
	for _, name := range names {
		pid, _, ok := strings.Cut(strings.TrimPrefix(name, groupPrefix), "-")
		if n, err := strconv.Atoi(pid); !ok || err != nil || !strings.HasPrefix(name, groupPrefix) || unix.Kill(n, 0) != unix.ESRCH {
			continue
		}
		if dirs, err := sys.CgroupDirs(name); err == nil {
			_ = sys.LeaveCgroup(dirs) // one that is in use stays
		}
	}
}
