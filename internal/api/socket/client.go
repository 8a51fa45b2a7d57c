package socket

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"sync"

	"github.com/coder/websocket"

	"mvm"
)

// Refused is the answer of a server that made no WebSocket of the request.
type Refused struct {
	Status int
	Body   []byte
}

// Error says what the answer was.
func (e *Refused) Error() string { return http.StatusText(e.Status) }

// Dial makes a WebSocket at the URL. The error is *Refused where the server answered.
func Dial(ctx context.Context, web *http.Client, url string, header http.Header) (*websocket.Conn, error) {
	kept := &keeper{next: web.Transport}
	c, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: &http.Client{Transport: kept}, HTTPHeader: header, Subprotocols: []string{Protocol}})
	if err != nil && kept.refused != nil {
		return nil, kept.refused
	}
	return c, err
}

// keeper keeps the whole answer of a server that refuses, of which Dial keeps the beginning.
type keeper struct {
	next    http.RoundTripper
	refused *Refused
}

// RoundTrip implements http.RoundTripper.
func (k *keeper) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := k.next.RoundTrip(r)
	if err != nil || resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxText))
	if err != nil {
		return nil, err
	}
	k.refused = &Refused{Status: resp.StatusCode, Body: body}
	resp.Body = io.NopCloser(bytes.NewReader(nil))
	return resp, nil
}

// LostError says that the connection failed before the command's end was known.
type LostError struct{ Err error }

// Error returns the cause.
func (e *LostError) Error() string { return e.Err.Error() }

// Run has the server run what is in first, a text, with the streams. It returns the text with
// how that ended. A Read of Stdin that is under way then is not waited for. When ctx ends it
// hangs up.
func Run(ctx context.Context, c *websocket.Conn, first []byte, streams mvm.ExecIO) ([]byte, error) {
	closing := sync.OnceFunc(func() { _ = c.CloseNow() })
	defer closing()
	defer context.AfterFunc(ctx, closing)()
	if err := c.Write(ctx, websocket.MessageText, first); err != nil {
		return nil, &LostError{err}
	}
	s := &session{out: &sender{c}, window: make(chan struct{}, Window), end: make(chan struct{}), unread: make(chan error, 1)}
	var wg sync.WaitGroup
	wg.Go(func() { s.sendResizes(streams.Resize) })
	if streams.Stdin == nil {
		_ = s.out.send(stdinEnd, nil)
	} else {
		go s.sendStdin(streams.Stdin, closing)
	}
	last, err := s.receive(newReceiver(c, maxText), streams)
	close(s.end)
	closing()
	wg.Wait()
	var lost *LostError
	if errors.As(err, &lost) {
		select {
		case err = <-s.unread:
		default:
		}
	}
	return last, err
}

type session struct {
	out    *sender
	window chan struct{} // holds one for each message of stdin under way
	end    chan struct{}
	unread chan error // why stdin could not be read to its end
}

// receive hands on output until the command ends.
func (s *session) receive(r *receiver, streams mvm.ExecIO) ([]byte, error) {
	for {
		text, message, err := r.next()
		switch {
		case err != nil:
			return nil, &LostError{err}
		case text:
			return bytes.Clone(message), nil
		}
		switch data := message[1:]; message[0] {
		case stdout:
			err = writeAll(streams.Stdout, data)
		case stderr:
			err = writeAll(streams.Stderr, data)
		case consumed:
			select {
			case <-s.window:
			default:
			}
		}
		if err != nil {
			return nil, mvm.Errorf(mvm.KindCanceled, "exec: write output: %w", err)
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

// sendStdin sends what it reads, at most Window messages ahead of the command. Where reading
// fails it hangs up, which kills the command: half of its input is not all of it.
func (s *session) sendStdin(r io.Reader, hangUp func()) {
	buf := make([]byte, MaxData)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			select {
			case s.window <- struct{}{}:
			case <-s.end:
				return
			}
			if s.out.send(stdin, buf[:n]) != nil {
				return
			}
		}
		if errors.Is(err, io.EOF) {
			_ = s.out.send(stdinEnd, nil)
			return
		}
		if err != nil {
			s.unread <- mvm.Errorf(mvm.KindInvalid, "exec: read stdin: %w", err).WithFix("the command was killed because its input was incomplete")
			hangUp()
			return
		}
	}
}

func (s *session) sendResizes(sizes <-chan [2]uint16) {
	for {
		select {
		case <-s.end:
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			p := binary.BigEndian.AppendUint16(nil, size[0])
			_ = s.out.send(resize, binary.BigEndian.AppendUint16(p, size[1]))
		}
	}
}
