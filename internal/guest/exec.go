package guest

import (
	"context"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/guest/workload"
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
	proc *workload.Process
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
	a.log.Info("exec", "program", workload.Clip(e.Argv[0]), "pid", s.proc.PID, "user", e.User, "tty", e.TTY)
	_ = conn.SetDeadline(time.Time{})
	err := guestproto.Send(conn, guestproto.Response{ExecStarted: &guestproto.ExecStarted{PID: s.proc.PID}})
	s.run(ctx, err == nil)
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
