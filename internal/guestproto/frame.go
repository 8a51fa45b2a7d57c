package guestproto

import (
	"encoding/binary"
	"errors"
	"io"

	"mvm"
)

// frameStep is how much of a frame is allocated ahead of its bytes, so that a peer
// which announces a large frame and sends nothing costs next to nothing.
const frameStep = 8 << 10

// ReadFrame reads one frame and returns its JSON, not yet checked. It returns
// io.EOF when the stream ends between frames and io.ErrUnexpectedEOF when it ends
// within one. A length of 0 or above MaxFrame is KindInvalid: the stream can't be
// used further. It never holds more than twice the bytes that arrived, and never
// more than MaxFrame + frameStep.
func ReadFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size == 0 || size > MaxFrame {
		return nil, mvm.Errorf(mvm.KindInvalid, "read frame: length %d is not in 1..%d", size, MaxFrame)
	}
	n := int(size)
	buf := make([]byte, min(n, frameStep))
	for have := 0; ; {
		k, err := io.ReadFull(r, buf[have:])
		if have += k; have == n {
			return buf, nil
		}
		if errors.Is(err, io.EOF) {
			return nil, io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		grown := make([]byte, min(n, 2*len(buf)))
		copy(grown, buf)
		buf = grown
	}
}

// WriteFrame writes one frame with a single Write. JSON that is empty or larger
// than MaxFrame is KindInvalid, and then nothing was written.
func WriteFrame(w io.Writer, json []byte) error {
	if len(json) == 0 || len(json) > MaxFrame {
		return mvm.Errorf(mvm.KindInvalid, "write frame: %d bytes are not in 1..%d", len(json), MaxFrame)
	}
	buf := make([]byte, 4, 4+len(json))
	binary.BigEndian.PutUint32(buf, uint32(len(json)))
	_, err := w.Write(append(buf, json...))
	return err
}
