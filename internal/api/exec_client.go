package api

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"mvm/internal/api/wire"
	"net/http"
	"sync"

	"mvm"
)

// Exec implements Service. When the context ends the command is killed. A Read of
// Stdin that is under way when the command ends is not waited for.
func (c *Client) Exec(ctx context.Context, addr mvm.Address, spec mvm.ExecSpec, streams mvm.ExecIO) (int, error) {
	return c.session(ctx, instancePath(addr)+"/exec", wire.ExecSpec{}.Of(spec), streams)
}

// Copy implements Service, like Exec.
func (c *Client) Copy(ctx context.Context, addr mvm.Address, spec mvm.CopySpec, streams mvm.ExecIO) (int, error) {
	return c.session(ctx, instancePath(addr)+"/copy", wire.CopySpec{}.Of(spec), streams)
}

// session carries streams over an upgraded connection until the other side says how it
// ended.
func (c *Client) session(ctx context.Context, path string, spec any, streams mvm.ExecIO) (int, error) {
	header := http.Header{"Connection": {"Upgrade"}, "Upgrade": {execProtocol}}
	resp, err := c.send(ctx, "POST", path, spec, header)
	if err != nil {
		return -1, err
	}
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if !ok || resp.StatusCode != http.StatusSwitchingProtocols {
		_ = resp.Body.Close()
		return -1, mvm.Errorf(mvm.KindInternal, "exec: agent did not upgrade the connection")
	}
	closing := sync.OnceFunc(func() { _ = conn.Close() })
	defer closing()
	defer context.AfterFunc(ctx, closing)()

	s := &execSession{out: &frameWriter{w: conn}, window: make(chan struct{}, stdinWindow), end: make(chan struct{}),
		unread: make(chan error, 1)}
	var wg sync.WaitGroup
	wg.Go(func() { s.sendResizes(streams.Resize) })
	if streams.Stdin == nil {
		_ = s.out.write(frameStdinEnd, nil)
	} else {
		go s.sendStdin(streams.Stdin, closing)
	}
	code, err := s.receive(conn, streams)
	close(s.end)
	closing()
	wg.Wait()
	var lost *lostError
	if errors.As(err, &lost) {
		select {
		case err = <-s.unread:
		default:
			err = c.explain(ctx, lost.err)
		}
	}
	return code, err
}

type execSession struct {
	out    *frameWriter
	window chan struct{} // holds one for each stdin frame under way
	end    chan struct{}
	unread chan error // why stdin could not be read to its end
}

// lostError says that the connection failed before the command's end was known.
type lostError struct{ err error }

// Error returns the cause.
func (e *lostError) Error() string { return e.err.Error() }

// receive hands on output until the command ends.
func (s *execSession) receive(r io.Reader, streams mvm.ExecIO) (int, error) {
	var buf [maxFrame]byte
	for {
		kind, p, err := readFrame(r, &buf)
		if err != nil {
			return -1, &lostError{err}
		}
		switch kind {
		case frameStdout:
			err = writeAll(streams.Stdout, p)
		case frameStderr:
			err = writeAll(streams.Stderr, p)
		case frameAck:
			select {
			case <-s.window:
			default:
			}
		case frameExit:
			return endOf(p)
		}
		if err != nil {
			return -1, mvm.Errorf(mvm.KindCanceled, "exec: write output: %w", err)
		}
	}
}

func writeAll(w io.Writer, p []byte) error {
	if w == nil {
		return nil
	}
	_, err := w.Write(p)
	return err
}

func endOf(p []byte) (int, error) {
	var end execEnd
	if err := json.Unmarshal(p, &end); err != nil {
		return -1, mvm.Errorf(mvm.KindInvalid, "exec: read how the command ended: %w", err)
	}
	if end.Error != nil {
		return -1, fromBody(end.Error)
	}
	return end.Code, nil
}

// sendStdin sends what it reads, at most stdinWindow frames ahead of the command. Where
// reading fails it hangs up, which kills the command: half of its input is not all of it.
func (s *execSession) sendStdin(r io.Reader, hangUp func()) {
	buf := make([]byte, maxFrame)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			select {
			case s.window <- struct{}{}:
			case <-s.end:
				return
			}
			if s.out.write(frameStdin, buf[:n]) != nil {
				return
			}
		}
		if errors.Is(err, io.EOF) {
			_ = s.out.write(frameStdinEnd, nil)
			return
		}
		if err != nil {
			s.unread <- mvm.Errorf(mvm.KindInvalid, "exec: read stdin: %w", err).WithFix("the command was killed because its input was incomplete")
			hangUp()
			return
		}
	}
}

func (s *execSession) sendResizes(sizes <-chan [2]uint16) {
	for {
		select {
		case <-s.end:
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			p := binary.BigEndian.AppendUint16(nil, size[0])
			_ = s.out.write(frameResize, binary.BigEndian.AppendUint16(p, size[1]))
		}
	}
}
