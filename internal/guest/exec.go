package guest

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/guestproto"
)

// Bounds of exec.
const (
	maxArgs      = 4096
	hangupGrace  = time.Second            // from SIGHUP to SIGKILL when the host hangs up
	outputGrace  = 500 * time.Millisecond // for output after the command's end
	stdinBacklog = 16                     // frames of input that the command has not read yet
	defaultTerm  = "xterm-256color"
	defaultRows  = 24
	defaultCols  = 80
)

// execSession is one command that the host runs.
type execSession struct {
	conn *hostConn
	proc *Process
	tty  *os.File // the terminal's master end, or nil

	stdin   *os.File // closed by feed
	outputs []output

	sending sync.Mutex
	input   chan []byte // nil: close stdin
}

// output is one stream of the command.
type output struct {
	file  *os.File
	frame func([]byte) guestproto.ExecFrame
}

// serveExec runs a command over the connection until it ends, or kills its process
// group when the host hangs up.
func (a *Agent) serveExec(ctx context.Context, conn *hostConn, e guestproto.Exec) {
	s := &execSession{conn: conn, input: make(chan []byte, stdinBacklog)}
	if err := a.startExec(s, e); err != nil {
		_ = conn.send(errorResponse(err))
		return
	}
	a.log.Info("exec", "program", clip(e.Argv[0]), "pid", s.proc.PID, "user", e.User, "tty", e.TTY)
	_ = conn.SetDeadline(time.Time{})
	err := guestproto.Send(conn, guestproto.Response{ExecStarted: &guestproto.ExecStarted{PID: s.proc.PID}})
	s.run(ctx, err == nil)
}

// startExec starts the command with pipes or a terminal.
func (a *Agent) startExec(s *execSession, e guestproto.Exec) (err error) {
	if len(e.Argv) == 0 || len(e.Argv) > maxArgs || len(e.Env) > maxArgs {
		return errors.New("exec: there must be 1 to 4096 arguments, and at most 4096 variables")
	}
	user, err := lookupUser(a.paths.Etc, e.User)
	if err != nil {
		return err
	}
	files, err := s.open(e, user)
	if err != nil {
		return err
	}
	s.proc, err = a.procs.Start(Command{Argv: e.Argv, Env: a.execEnv(user, e), Dir: e.Dir, User: user, Files: files, TTY: e.TTY})
	for i, f := range files {
		if i == 0 || f != files[0] {
			f.Close()
		}
	}
	if err != nil {
		s.closeFiles()
	}
	return err
}

// execEnv is the user's environment, the pool's, then the request's.
func (a *Agent) execEnv(user User, e guestproto.Exec) []string {
	env := userEnv(user)
	if e.TTY {
		env["TERM"] = defaultTerm
	}
	a.mu.Lock()
	for k, v := range a.env {
		env[k] = v
	}
	a.mu.Unlock()
	for _, kv := range e.Env {
		if k, v, ok := strings.Cut(kv, "="); ok && k != "" && !strings.ContainsRune(kv, 0) {
			env[k] = v
		}
	}
	return joinEnv(env)
}

// open makes the command's files and keeps the other ends.
func (s *execSession) open(e guestproto.Exec, user User) (files [3]*os.File, err error) {
	stdout := func(b []byte) guestproto.ExecFrame { return guestproto.ExecFrame{Stdout: b} }
	stderr := func(b []byte) guestproto.ExecFrame { return guestproto.ExecFrame{Stderr: b} }
	if e.TTY {
		master, slave, err := openTerminal(e.Rows, e.Cols, user)
		if err != nil {
			return files, err
		}
		s.tty, s.stdin = master, master
		s.outputs = []output{{master, stdout}}
		return [3]*os.File{slave, slave, slave}, nil
	}
	var ours [3]*os.File
	for i := range files {
		r, w, err := os.Pipe()
		if err != nil {
			for k := range i {
				files[k].Close()
				ours[k].Close()
			}
			return files, err
		}
		if files[i], ours[i] = w, r; i == 0 {
			files[i], ours[i] = r, w
		}
	}
	s.stdin = ours[0]
	s.outputs = []output{{ours[1], stdout}, {ours[2], stderr}}
	return files, nil
}

func (s *execSession) closeFiles() {
	s.stdin.Close()
	for _, o := range s.outputs {
		o.file.Close()
	}
}

// run moves data both ways until the command has ended.
func (s *execSession) run(ctx context.Context, hostThere bool) {
	ctx, hangUp := context.WithCancel(ctx)
	defer hangUp()
	if !hostThere {
		hangUp()
	}
	var in, out sync.WaitGroup
	in.Go(func() { s.receive(hangUp) })
	in.Go(func() { s.feed() })
	for _, o := range s.outputs {
		out.Go(func() { s.pump(o, hangUp) })
	}
	select {
	case <-s.proc.Done():
	case <-ctx.Done():
		s.kill()
	}
	for _, o := range s.outputs {
		_ = o.file.SetReadDeadline(time.Now().Add(outputGrace))
	}
	out.Wait()
	if ctx.Err() == nil {
		_ = s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		_ = s.send(guestproto.ExecFrame{Exit: &guestproto.Exit{Code: s.proc.Code()}})
	}
	_ = s.conn.SetReadDeadline(time.Unix(1, 0))
	_ = s.stdin.SetWriteDeadline(time.Unix(1, 0))
	in.Wait()
	s.closeFiles()
}

// kill ends the process group: SIGHUP, and SIGKILL after the grace. Output that
// nobody reads any more must not hold it up.
func (s *execSession) kill() {
	_ = s.conn.SetWriteDeadline(time.Unix(1, 0))
	s.proc.Signal(unix.SIGHUP)
	select {
	case <-s.proc.Done():
	case <-time.After(hangupGrace):
		s.proc.Signal(unix.SIGKILL)
		<-s.proc.Done()
	}
}

// receive takes frames from the host until it hangs up or the session ends.
func (s *execSession) receive(hangUp func()) {
	defer close(s.input)
	defer hangUp()
	for {
		var f guestproto.ExecFrame
		if err := guestproto.Receive(s.conn, &f); err != nil {
			return
		}
		switch {
		case f.Stdin != nil:
			s.offer(f.Stdin)
		case f.CloseStdin:
			s.offer(nil)
		case f.Resize != nil && s.tty != nil:
			_ = resize(s.tty, f.Resize.Rows, f.Resize.Cols)
		case f.Signal > 0 && f.Signal < 65:
			s.proc.Signal(syscall.Signal(f.Signal))
		}
	}
}

// offer queues input; a command that does not read stops the host by back-pressure.
func (s *execSession) offer(b []byte) {
	select {
	case s.input <- b:
	case <-s.proc.Done():
	}
}

// feed writes the input to the command. It goes on taking input when the command
// reads no more, so that signals still come through.
func (s *execSession) feed() {
	closed := false
	for b := range s.input {
		switch {
		case closed:
		case b != nil:
			_, err := s.stdin.Write(b)
			closed = err != nil
		case s.tty != nil:
			_, _ = s.stdin.Write([]byte{4}) // end of file, as typed at a terminal
		default:
			s.stdin.Close()
			closed = true
		}
	}
}

// pump sends one output stream to the host.
func (s *execSession) pump(o output, hangUp func()) {
	buf := make([]byte, guestproto.MaxExecData)
	for {
		n, err := o.file.Read(buf)
		if n > 0 {
			if sendErr := s.send(o.frame(buf[:n])); sendErr != nil {
				hangUp()
				_, _ = io.Copy(io.Discard, o.file)
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (s *execSession) send(f guestproto.ExecFrame) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	return guestproto.Send(s.conn, f)
}
