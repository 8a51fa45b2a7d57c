package cage

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Frames that the first process sends: a kind, four bytes of length, big-endian, and a
// payload.
const (
	frameReady  = 'r' // the cage stands
	framePiece  = 'p' // a Piece that lacks, as JSON
	frameOutput = 'o' // what a command wrote to standard output
	frameExit   = 'x' // the command has ended: an exit, as JSON
)

// endOfLog is the line of standard error behind those of a command. A command that writes it
// itself has what it writes afterwards come late.
const endOfLog = "\x00end of the command's log"

const (
	maxFrame = 64 << 10
	maxOrder = 1 << 20
)

// exit is how a command has ended.
type exit struct {
	Code   int    `json:"code"`             // -1: by a signal
	Signal int    `json:"signal,omitempty"` // 0: none
	Text   string `json:"text,omitempty"`   // why it was not started
}

type frameWriter struct{ w io.Writer }

func (f frameWriter) send(kind byte, payload []byte) error {
	head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(payload)))
	_, err := f.w.Write(append(head, payload...))
	return err
}

func (f frameWriter) sendJSON(kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return f.send(kind, b)
}

// Write sends output of a command.
func (f frameWriter) Write(p []byte) (int, error) {
	for sent := 0; sent < len(p); {
		n := min(len(p)-sent, maxFrame)
		if err := f.send(frameOutput, p[sent:sent+n]); err != nil {
			return sent, err
		}
		sent += n
	}
	return len(p), nil
}

func readFrame(r io.Reader) (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > maxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes", size)
	}
	payload = make([]byte, size)
	_, err = io.ReadFull(r, payload)
	return head[0], payload, err
}

// order is what the first process is told before it builds the cage.
type order struct {
	User      int               `json:"user"`
	Disk      int64             `json:"disk"`
	Inodes    int64             `json:"inodes"`
	Processes int               `json:"processes"`
	Files     int               `json:"files"`
	Seconds   int               `json:"seconds"`
	Show      []string          `json:"show"`
	Binds     map[string]string `json:"binds"`
	Texts     map[string]string `json:"texts"`
	Own       []string          `json:"own"`
}

// sendSized writes the value's JSON behind its length.
func sendSized(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxOrder {
		return fmt.Errorf("an order of %d bytes is more than %d", len(b), maxOrder)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

// readSized reads what sendSized has written, and not a byte more.
func readSized(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > maxOrder {
		return fmt.Errorf("an order of %d bytes", size)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return errors.Join(io.ErrUnexpectedEOF, err)
	}
	return json.Unmarshal(b, v)
}
