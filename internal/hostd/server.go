package hostd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/driver/vmproc"
	"mvm/internal/network"
	"mvm/internal/sys"
)

// Options are what a Server is made of. All are required.
type Options struct {
	// UID is the agent's user; root may ask too.
	UID int
	// Bounds are those of VMMs, which has them in force. The users in them are those
	// that a TAP may be for.
	Bounds vmproc.Bounds
	// Mark returns the mark of the agent's data dir; nil: any agent is answered.
	Mark func() (string, error)
	// VMMs are the launchers, by the kind of VMM.
	VMMs    map[string]vmproc.Launcher
	Network network.Network
	Log     *slog.Logger
}

// Server does what needs root for an agent that has no rights.
type Server struct {
	opt   Options
	epoch string
	ctx   context.Context // ends with Close
	stop  context.CancelFunc
	exits *exits
	pages chan struct{} // holds one for each copy of pages under way

	mu     sync.Mutex
	closed bool           // nothing is begun any more
	wg     sync.WaitGroup // requests under way
}

// NewServer makes a Server; Serve runs it. KindInvalid when it would not be bounded.
func NewServer(opt Options) (*Server, error) {
	if !opt.Bounds.Complete() {
		return nil, mvm.Errorf(mvm.KindInvalid, "make the server: its VMMs are not bounded")
	}
	s := &Server{opt: opt, exits: newExits(), pages: make(chan struct{}, maxCopies)}
	var random [8]byte
	rand.Read(random[:])
	s.epoch = hex.EncodeToString(random[:])
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// Listener is a unix socket that is listened on, such as a *net.UnixListener.
type Listener interface {
	AcceptUnix() (*net.UnixConn, error)
	Close() error
}

// Serve answers on the listener until that is closed or Close is called, which closes it.
func (s *Server) Serve(ln Listener) error {
	unlisten := context.AfterFunc(s.ctx, func() { _ = ln.Close() })
	defer unlisten()
	slots := make(chan struct{}, maxConns)
	for {
		conn, err := ln.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil { // such as no file left for it
			s.opt.Log.Warn("accept", "error", err)
			select {
			case <-time.After(50 * time.Millisecond):
			case <-s.ctx.Done():
			}
			continue
		}
		peer, err := s.admit(conn)
		if err != nil {
			s.opt.Log.Warn("refused a caller", "error", err)
			_ = conn.Close()
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-s.ctx.Done():
			_ = conn.Close()
			return nil
		}
		begun := s.begin(func() {
			defer func() { <-slots }()
			defer conn.Close()
			s.serve(conn, peer)
		})
		if !begun {
			_ = conn.Close()
			return nil
		}
	}
}

// begin runs fn in a goroutine that Close waits for; false when closing.
func (s *Server) begin(fn func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Go(fn)
	return true
}

// Close ends requests under way and waits for everything that Serve started. VMMs go on.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.wg.Wait() // requests may still have VMMs watched
	s.exits.close()
}

// admit asks the kernel who is at the other end, as of its connect.
func (s *Server) admit(conn *net.UnixConn) (vmproc.Owner, error) {
	cred, err := peer(conn)
	if err == nil && cred.UID != 0 && cred.UID != s.opt.UID {
		err = mvm.Errorf(mvm.KindPolicy, "user %d is neither the agent's, %d, nor root", cred.UID, s.opt.UID)
	}
	return cred, err
}

func peer(conn *net.UnixConn) (o vmproc.Owner, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return o, err
	}
	cerr := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			o = vmproc.Owner{UID: int(cred.Uid), GID: int(cred.Gid)}
		}
	})
	return o, errors.Join(cerr, err)
}

// serve answers the one request of a connection.
func (s *Server) serve(conn *net.UnixConn, from vmproc.Owner) {
	if err := conn.SetDeadline(time.Now().Add(readTimeout)); err != nil {
		return
	}
	kind, body, files, err := receive(conn, func(kind byte) int { return op(kind).limit() }, maxFiles)
	defer func() { closeAll(files) }()
	if err != nil {
		s.answer(conn, reply{}, err)
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, workTimeout)
	defer cancel()
	watched := s.watch(conn, cancel)
	r, err := s.do(ctx, request{op: op(kind), body: body, files: files, from: from})
	if gone := watched(); (gone || !s.answer(conn, r, err)) && r.undo != nil {
		r.undo()
	}
	closeAll(r.files)
}

// watch cancels the request when its caller closes the connection, or says more than
// it should. The function that it returns ends the watch and reports whether it did.
func (s *Server) watch(conn *net.UnixConn, cancel func()) (end func() (gone bool)) {
	_ = conn.SetReadDeadline(time.Time{})
	seen := make(chan bool)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		gone := !errors.Is(err, os.ErrDeadlineExceeded)
		if gone {
			cancel()
		}
		seen <- gone
	}()
	return func() bool {
		_ = conn.SetReadDeadline(time.Unix(1, 0))
		return <-seen
	}
}

// reply is the answer to a request.
type reply struct {
	body  any
	files []*os.File
	undo  func() // when the caller does not get it
}

// answer sends the reply or the error, and reports whether it could be sent.
func (s *Server) answer(conn *net.UnixConn, r reply, err error) bool {
	_ = conn.SetWriteDeadline(time.Now().Add(readTimeout))
	if err == nil {
		return send(conn, answered, r.body, r.files) == nil
	}
	f := failure{Kind: mvm.KindOf(err), Text: clip(err.Error()), Gone: errors.Is(err, sys.ErrNoProcess)}
	f.Errno, _ = sys.Fault(err)
	f.Unmapped = errors.Is(err, sys.ErrNoMapping)
	var e *mvm.Error
	if errors.As(err, &e) && e.Fix != "" && e == err { //nolint:errorlint // its own text has the fix at the end
		f.Text, f.Fix = clip(e.Text), clip(e.Fix)
	}
	s.opt.Log.Debug("request failed", "error", err)
	return send(conn, failed, f, nil) == nil
}

func clip(s string) string {
	const most = 4096
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
