package wire

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync/atomic"
)

// Bounds of what comes around the data of a body in chunks.
const (
	maxChunkLine = 1 << 10  // of the line with a chunk's length
	maxOverhead  = 16 << 10 // of such lines, beyond what comes to 16 bytes and twice the data of each
	maxTrailer   = 4 << 10
)

var errChunk = errors.New("malformed chunk")

// Expectant is a client that may wait for the word to go on before it sends a body.
type Expectant interface{ SayContinue() error }

// Body is the body of a request on its way from the client. One goroutine at a time
// reads it. A time-out ends a Read and not the body.
type Body struct {
	in       *Inbox
	client   Expectant
	req      *http.Request
	chunked  bool
	left     int64 // of the body, or of the chunk
	gap      bool  // the end of a chunk's data comes next
	trailing bool  // the trailer comes next
	trailer  int   // bytes of it
	overhead int64
	waits    bool // the client waits for the word to go on before it sends it
	expects  bool // and nobody has asked for the body
	err      error
	whole    atomic.Bool
}

// Begin makes it the body of the request. Without one it is whole at once.
func (b *Body) Begin(in *Inbox, client Expectant, req *http.Request) {
	b.in, b.client, b.req, b.err = in, client, req, nil
	b.chunked, b.left = req.ContentLength < 0, max(req.ContentLength, 0)
	b.gap, b.trailing, b.trailer, b.overhead = false, false, 0, 0
	b.whole.Store(req.ContentLength == 0)
	b.waits = req.ContentLength != 0 && req.ProtoAtLeast(1, 1) && HasToken(req.Header["Expect"], "100-continue")
	b.expects = b.waits
	req.Body = http.NoBody
	if req.ContentLength != 0 {
		req.Body = b
	}
}

// Complete reports whether all of it was read.
func (b *Body) Complete() bool { return b.whole.Load() }

// Failed returns the error that reading it ended with: io.EOF where it is complete.
func (b *Body) Failed() error { return b.err }

// Fail has reading it end with the error.
func (b *Body) Fail(err error) { b.err = err }

// Waited reports whether the client waits, or waited, for the word to send it, and Unasked
// whether nobody has asked for it.
func (b *Body) Waited() bool  { return b.waits }
func (b *Body) Unasked() bool { return b.expects }

// Close does nothing: what is left is for the connection to drop.
func (b *Body) Close() error { return nil }

// Read reads from the client, which is told to go on where it waits for that.
func (b *Body) Read(p []byte) (n int, err error) {
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	if b.expects {
		b.expects = false
		if err := b.client.SayContinue(); err != nil {
			b.err = err
			return 0, err
		}
	}
	n, err = b.read(p)
	switch {
	case errors.Is(err, io.EOF):
		b.whole.Store(true)
		b.err = io.EOF
	case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
		b.err = err
	}
	return n, err
}

func (b *Body) read(p []byte) (int, error) {
	if b.chunked && b.left == 0 {
		if err := b.nextChunk(); err != nil {
			return 0, err
		}
	}
	n, err := b.in.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case errors.Is(err, io.EOF):
		return n, io.ErrUnexpectedEOF
	case err == nil && b.left == 0 && !b.chunked:
		return n, io.EOF
	case err == nil && b.left == 0:
		b.gap = true
	}
	return n, err
}

// nextChunk reads up to the next chunk's data; at the end of the body it is io.EOF.
func (b *Body) nextChunk() error {
	err := b.chunkHead()
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	if err == nil && b.trailing {
		return io.EOF
	}
	return err
}

// chunkHead reads what is between two chunks' data, and the trailer behind the last one.
func (b *Body) chunkHead() error {
	in := b.in
	if b.gap {
		line, err := in.line(1)
		if err != nil {
			return err
		}
		if len(line) > 0 {
			return errChunk
		}
		b.gap = false
	}
	if !b.trailing {
		line, err := in.line(maxChunkLine)
		if err != nil {
			return err
		}
		size, ok := chunkSize(line)
		if b.overhead = max(0, b.overhead+int64(len(line))+2-16-2*size); !ok || b.overhead > maxOverhead {
			return errChunk
		}
		b.left, b.trailing = size, size == 0
	}
	for b.trailing {
		line, err := in.line(maxTrailer)
		if err != nil {
			return err
		}
		if len(line) == 0 {
			break
		}
		name, value, ok := parseField(string(line))
		if b.trailer += len(line); !ok || b.trailer > maxTrailer {
			return errChunk
		}
		if b.req.Trailer == nil {
			b.req.Trailer = http.Header{}
		}
		b.req.Trailer[name] = append(b.req.Trailer[name], value)
	}
	return nil
}

// chunkSize reads the line before a chunk's data. What is said of the chunk beside its
// length counts for nothing.
func chunkSize(line []byte) (n int64, ok bool) {
	digits := 0
	for ; digits < len(line) && line[digits] != ';'; digits++ {
		c := line[digits]
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		n = n<<4 | int64(c)
	}
	for _, c := range line[digits:] {
		if c < ' ' && c != '\t' || c == 0x7f {
			return 0, false
		}
	}
	return n, digits > 0 && digits < 16
}
