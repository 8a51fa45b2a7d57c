package guest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"sync"
	"time"

	"mvm"
	"mvm/internal/filecopy"
	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
)

// Exit codes of a copy, as mvm has them.
const (
	copyFailed  = 1
	copyMissing = 3
)

// serveCopy sends or receives files over the connection until that is done or the host
// hangs up.
func (a *Agent) serveCopy(ctx context.Context, conn *hostConn, c guestproto.Copy) {
	target, err := a.copyTarget(c)
	if err != nil {
		_ = conn.send(errorResponse(err))
		return
	}
	a.log.Info("copy", "path", workload.Clip(c.Path), "in", c.In)
	if conn.send(guestproto.Response{ExecStarted: &guestproto.ExecStarted{}}) != nil {
		return
	}
	s := newCopySession(ctx, conn)
	if c.In {
		_, err = filecopy.Receive(s.input, target)
	} else {
		err = filecopy.Send(s.stream(false), filecopy.Source{Path: c.Path, Follow: c.Follow, Skipped: func(path, why string) {
			_, _ = s.stream(true).Write([]byte("skipped " + path + ": " + why + "\n"))
		}})
	}
	s.end(err)
}

// copyTarget says where and whose what comes in is.
func (a *Agent) copyTarget(c guestproto.Copy) (t filecopy.Target, err error) {
	spec := mvm.CopySpec{Path: c.Path, In: c.In, Name: c.Name, Follow: c.Follow, Owners: c.Owners, User: c.User}
	if err := spec.Validate(); err != nil {
		return t, err
	}
	t = filecopy.Target{Path: c.Path, Name: c.Name, Owners: c.Owners, Setuid: true}
	if c.User != "" {
		u, err := workload.LookupUser(a.paths.Etc, c.User)
		if err != nil {
			return t, err
		}
		t.Owner = &filecopy.Owner{UID: u.UID, GID: u.GID}
	}
	return t, nil
}

// copySession carries the frames of a copy.
type copySession struct {
	conn    *hostConn
	input   *io.PipeReader // what the host sends
	taken   sync.WaitGroup
	sending sync.Mutex
	stop    func() bool
}

func newCopySession(ctx context.Context, conn *hostConn) *copySession {
	in, w := io.Pipe()
	s := &copySession{conn: conn, input: in}
	// The host may take as long as it likes to send and read, but not when it has hung up.
	_ = conn.SetDeadline(time.Time{})
	hangUp := func() {
		_ = w.CloseWithError(io.ErrUnexpectedEOF)
		_ = conn.SetDeadline(time.Unix(1, 0))
	}
	s.stop = context.AfterFunc(ctx, hangUp)
	s.taken.Go(func() {
		defer hangUp()
		for {
			var f guestproto.ExecFrame
			if guestproto.Receive(conn, &f) != nil {
				return
			}
			if f.CloseStdin {
				_ = w.Close()
			}
			_, _ = w.Write(f.Stdin) // what nobody wants any more is dropped
		}
	})
	return s
}

// stream is stdout or stderr, in frames.
func (s *copySession) stream(stderr bool) io.Writer { return copyStream{s, stderr} }

type copyStream struct {
	s      *copySession
	stderr bool
}

// Write sends b as frames.
func (c copyStream) Write(b []byte) (int, error) {
	n := 0
	for piece := range slices.Chunk(b, guestproto.MaxExecData) {
		f := guestproto.ExecFrame{Stdout: piece}
		if c.stderr {
			f = guestproto.ExecFrame{Stderr: piece}
		}
		if err := c.s.send(f); err != nil {
			return n, err
		}
		n += len(piece)
	}
	return n, nil
}

func (s *copySession) send(f guestproto.ExecFrame) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	return guestproto.Send(s.conn, f)
}

// end tells the host how it went, and waits until nothing of the session is left.
func (s *copySession) end(err error) {
	code := 0
	if err != nil {
		code = copyFailed
		if errors.Is(err, fs.ErrNotExist) {
			code = copyMissing
		}
		_, _ = s.stream(true).Write([]byte(clip1k(err.Error()) + "\n"))
	}
	_ = s.input.Close()
	_ = s.send(guestproto.ExecFrame{Exit: &guestproto.Exit{Code: code}})
	s.stop()
	_ = s.conn.SetReadDeadline(time.Unix(1, 0))
	s.taken.Wait()
}

// clip1k bounds an error for people, which may have long paths in it.
func clip1k(s string) string { return string(bytes.ToValidUTF8([]byte(s[:min(len(s), 1024)]), nil)) }
