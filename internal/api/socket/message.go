package socket

import (
	"context"
	"errors"
	"io"

	"github.com/coder/websocket"

	"mvm"
)

// sender sends messages, from several goroutines. One that waits for the other side ends with
// the connection.
type sender struct{ conn *websocket.Conn }

func (s *sender) send(kind byte, data []byte) error {
	b := make([]byte, 1+len(data))
	b[0] = kind
	copy(b[1:], data)
	return s.conn.Write(context.Background(), websocket.MessageBinary, b)
}

// stream returns a writer that sends what it gets as messages of the kind.
func (s *sender) stream(kind byte) io.Writer { return &stream{s, kind} }

type stream struct {
	*sender
	kind byte
}

// Write sends p in as many messages as it needs.
func (s *stream) Write(p []byte) (int, error) {
	sent := 0
	for sent < len(p) {
		n := min(len(p)-sent, MaxData)
		if err := s.send(s.kind, p[sent:sent+n]); err != nil {
			return sent, err
		}
		sent += n
	}
	return sent, nil
}

// receiver reads messages.
type receiver struct {
	conn *websocket.Conn
	buf  []byte
}

func newReceiver(c *websocket.Conn, most int) *receiver {
	c.SetReadLimit(int64(2 * (most + 2))) // what is too long is told here
	return &receiver{conn: c, buf: make([]byte, most+2)}
}

// next returns the next message, valid until the next call. The error is of kind invalid where
// the other side is at fault, else of the connection.
func (r *receiver) next() (text bool, message []byte, err error) {
	kind, in, err := r.conn.Reader(context.Background()) // ends with the connection
	if err != nil {
		return false, nil, err
	}
	n := 0
	for n < len(r.buf) && err == nil {
		var k int
		k, err = in.Read(r.buf[n:])
		n += k
	}
	switch {
	case n == len(r.buf):
		return false, nil, mvm.Errorf(mvm.KindInvalid, "exec message has more than %d bytes", MaxData)
	case !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return false, nil, err
	case kind == websocket.MessageBinary && n == 0:
		return false, nil, mvm.Errorf(mvm.KindInvalid, "exec message is empty")
	}
	return kind == websocket.MessageText, r.buf[:n], nil
}
