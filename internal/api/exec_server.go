package api

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"mvm/internal/api/wire"
	"net"
	"net/http"
	"reflect"
	"time"

	"mvm"
)

// lastWords bounds what is written to a client once its command must end.
const lastWords = time.Second

// session makes a handler that answers by an upgraded connection, which carries the
// streams of what run does. When the client hangs up its context ends.
func session[Spec any](s *Server, check func(p params, spec Spec) error, run func(ctx context.Context, addr mvm.Address, spec Spec, io mvm.ExecIO) (int, error)) endpoint {
	return endpoint{shape: asExec, in: reflect.TypeFor[Spec](), out: reflect.TypeFor[none](), serve: func(w http.ResponseWriter, r *http.Request) {
		spec, p, err := accept[Spec](s, w, r, MaxBody)
		if err == nil {
			err = p.needInstance()
		}
		switch {
		case err != nil:
		case r.ProtoMajor != 1:
			err = mvm.Errorf(mvm.KindInvalid, "exec needs an upgraded connection, which %s does not allow", r.Proto).WithFix("use HTTP/1.1")
		case r.Header.Get("Upgrade") != execProtocol:
			err = mvm.Errorf(mvm.KindInvalid, "exec needs an upgrade to %s", execProtocol)
		default:
			err = check(p, spec)
		}
		if err != nil {
			s.fail(w, r, err)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			s.fail(w, r, mvm.Errorf(mvm.KindInternal, "take over exec connection: %w", err))
			return
		}
		defer func() { _ = conn.Close() }()
		if err := switchProtocol(conn, mvm.RequestFrom(r.Context())); err != nil {
			s.log.Debug("client left before exec began", "error", err)
			return
		}
		ctx, cancel := s.context(r, ofStream)
		defer cancel()
		s.runSession(ctx, conn, rw.Reader, func(ctx context.Context, io mvm.ExecIO) (int, error) { return run(ctx, p.addr, spec, io) })
	}}
}

// execEndpoint runs a command.
func (s *Server) execEndpoint() endpoint {
	return session(s, func(p params, spec wire.ExecSpec) error {
		if len(spec.Argv) == 0 || spec.Argv[0] == "" {
			return mvm.Errorf(mvm.KindInvalid, "exec on %s: no command given", p.addr)
		}
		return nil
	}, func(ctx context.Context, addr mvm.Address, spec wire.ExecSpec, io mvm.ExecIO) (int, error) {
		return s.svc(ctx).Exec(ctx, addr, spec.Noun(), io)
	})
}

// copyEndpoint copies files.
func (s *Server) copyEndpoint() endpoint {
	return session(s, func(p params, spec wire.CopySpec) error {
		if err := spec.Noun().Validate(); err != nil {
			return mvm.Errorf(mvm.KindInvalid, "copy with %s: %w", p.addr, err)
		}
		return nil
	}, func(ctx context.Context, addr mvm.Address, spec wire.CopySpec, io mvm.ExecIO) (int, error) {
		return s.svc(ctx).Copy(ctx, addr, spec.Noun(), io)
	})
}

func switchProtocol(conn net.Conn, request string) error {
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	_, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+execProtocol+"\r\n"+RequestHeader+": "+request+"\r\n\r\n")
	return err
}

// runSession runs what has the connection's streams and tells how it ended.
func (s *Server) runSession(ctx context.Context, conn net.Conn, in *bufio.Reader, run func(context.Context, mvm.ExecIO) (int, error)) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := &frameWriter{w: conn}
	input := newExecInput(out)
	done := make(chan struct{})
	go func() {
		defer close(done)
		cancel(input.read(in))
	}()
	stop := context.AfterFunc(ctx, func() {
		input.pipe.CloseWithError(context.Cause(ctx))
		_ = conn.SetWriteDeadline(time.Now().Add(lastWords))
	})
	code, err := run(ctx, mvm.ExecIO{
		Stdin: input.pipe.reader(), Stdout: out.stream(frameStdout), Stderr: out.stream(frameStderr), Resize: input.resize,
	})
	if stop() {
		_ = conn.SetWriteDeadline(time.Now().Add(s.writeTimeout))
	}
	end := execEnd{Code: code}
	if err = because(ctx, err); err != nil {
		failed(ctx, err)
		end = execEnd{Code: -1, Error: bodyOf(ctx, err)}
	}
	if b, err := json.Marshal(end); err == nil {
		_ = out.write(frameExit, b)
	}
	_ = conn.Close()
	input.pipe.CloseWithError(io.ErrClosedPipe)
	<-done
}

// execInput takes the client's frames apart without ever waiting for the command.
type execInput struct {
	pipe   *stdinQueue
	resize chan [2]uint16
}

func newExecInput(out *frameWriter) *execInput {
	return &execInput{pipe: newStdinQueue(func() error { return out.write(frameAck, nil) }), resize: make(chan [2]uint16, 1)}
}

var errHangUp = errors.New("client hung up")

// read takes frames until the connection ends, and says why it did.
func (e *execInput) read(r io.Reader) error {
	defer close(e.resize)
	var buf [maxFrame]byte
	for {
		kind, payload, err := readFrame(r, &buf)
		if err != nil {
			if mvm.IsKind(err, mvm.KindInvalid) {
				return err
			}
			return mvm.Errorf(mvm.KindCanceled, "exec: %w", errHangUp)
		}
		if err := e.take(kind, payload); err != nil {
			return err
		}
	}
}

func (e *execInput) take(kind byte, payload []byte) error {
	switch kind {
	case frameStdin:
		return e.pipe.put(payload)
	case frameStdinEnd:
		e.pipe.CloseWithError(io.EOF)
		return nil
	case frameResize:
		if len(payload) != 4 {
			return mvm.Errorf(mvm.KindInvalid, "exec resize frame has %d bytes, not 4", len(payload))
		}
		size := [2]uint16{binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:])}
		select { // the newest size counts
		case <-e.resize:
		default:
		}
		e.resize <- size
		return nil
	}
	return mvm.Errorf(mvm.KindInvalid, "exec frame of unknown type %d", kind)
}
