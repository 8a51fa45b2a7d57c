package api

import (
	"encoding/binary"
	"io"
	"sync"

	"mvm"
)

// The exec connection, after the upgrade to execProtocol: frames of one byte type,
// four bytes big-endian length and at most maxFrame bytes, both ways.
//
//	client -> server  stdin (data), stdinEnd, resize (rows, cols: 2 bytes each)
//	server -> client  stdout, stderr (data), ack (one stdin frame was consumed),
//	                  exit (JSON execEnd; the last frame)
//
// The client has at most stdinWindow stdin frames unacknowledged, so that the
// server reads on, and notices a hang-up, even when the command reads nothing.
const (
	execProtocol = "mvm-exec/1"

	frameStdin    = 0
	frameStdinEnd = 1
	frameResize   = 2
	frameStdout   = 3
	frameStderr   = 4
	frameAck      = 5
	frameExit     = 6

	maxFrame    = 32 << 10
	stdinWindow = 16
)

// execEnd says how a command ended: a code, or why it could not run.
type execEnd struct {
	Code  int        `json:"code"`
	Error *errorBody `json:"error,omitempty"`
}

// readFrame reads one frame; its payload is valid until the next call with buf.
func readFrame(r io.Reader, buf *[maxFrame]byte) (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, mvm.Errorf(mvm.KindInvalid, "exec frame has %d bytes, more than %d", n, maxFrame)
	}
	_, err = io.ReadFull(r, buf[:n])
	return head[0], buf[:n], err
}

// frameWriter writes frames from several goroutines.
type frameWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (f *frameWriter) write(kind byte, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := make([]byte, 5+len(payload))
	b[0] = kind
	binary.BigEndian.PutUint32(b[1:], uint32(len(payload)))
	copy(b[5:], payload)
	_, err := f.w.Write(b)
	return err
}

// stream returns a writer that sends its data as frames of the kind.
func (f *frameWriter) stream(kind byte) io.Writer { return &frameStream{f: f, kind: kind} }

type frameStream struct {
	f    *frameWriter
	kind byte
}

// Write sends p in as many frames as it needs.
func (s *frameStream) Write(p []byte) (int, error) {
	sent := 0
	for sent < len(p) {
		n := min(len(p)-sent, maxFrame)
		if err := s.f.write(s.kind, p[sent:sent+n]); err != nil {
			return sent, err
		}
		sent += n
	}
	return sent, nil
}
