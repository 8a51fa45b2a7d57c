package api

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"mvm"
)

// lastWords bounds what is written to a client once its command must end.
const lastWords = time.Second

// exec answers a request with an mvm.ExecSpec by an upgraded connection that
// carries the command's streams. When the client hangs up the command's context ends.
func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	spec, p, err := accept[mvm.ExecSpec](s, w, r, MaxBody)
	if err == nil {
		err = p.needInstance()
	}
	switch {
	case err != nil:
	case r.ProtoMajor != 1:
		err = mvm.Errorf(mvm.KindInvalid, "exec takes the connection over, which %s does not allow", r.Proto).WithFix("ask with HTTP/1.1")
	case r.Header.Get("Upgrade") != execProtocol:
		err = mvm.Errorf(mvm.KindInvalid, "exec needs an upgrade to %s", execProtocol)
	case len(spec.Argv) == 0 || spec.Argv[0] == "":
		err = mvm.Errorf(mvm.KindInvalid, "exec on %s: no command given", p.addr)
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
		s.log.Debug("client left before exec began", "err", err)
		return
	}
	ctx, cancel := s.context(r, ofStream)
	defer cancel()
	s.runExec(ctx, conn, rw.Reader, p.addr, spec)
}

func switchProtocol(conn net.Conn, request string) error {
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	_, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+execProtocol+"\r\n"+RequestHeader+": "+request+"\r\n\r\n")
	return err
}

// runExec runs the command with the connection's streams and tells how it ended.
func (s *Server) runExec(ctx context.Context, conn net.Conn, in *bufio.Reader, addr mvm.Address, spec mvm.ExecSpec) {
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
	code, err := s.svc(ctx).Exec(ctx, addr, spec, mvm.ExecIO{
		Stdin: input.pipe.reader(), Stdout: out.stream(frameStdout), Stderr: out.stream(frameStderr), Resize: input.resize,
	})
	if stop() {
		_ = conn.SetWriteDeadline(time.Now().Add(s.writeTimeout))
	}
	end := execEnd{Code: code}
	if err != nil {
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
