package wire

import (
	"encoding/binary"
	"errors"
)

// http2Preface begins a connection whose client speaks HTTP/2 without having asked (RFC
// 9113, section 3.3). The rest of its preface follows.
const http2Preface = "PRI * HTTP/2.0\r\n\r\n"

var ErrHTTP2 = errors.New("the client speaks HTTP/2")

// NoHTTP2 is what such a client is told.
const NoHTTP2 = "HTTP/2 is not served here: use HTTP/1.1"

// Frames of HTTP/2 (RFC 9113, sections 6.5, 6.8 and 7).
const (
	frameSettings  = 4
	frameGoAway    = 7
	http11Required = 13
)

// AppendGoAway appends a server's settings, which come first, and the end of a connection
// of which no stream was served.
func AppendGoAway(b []byte, text string) []byte {
	b = append(b, 0, 0, 0, frameSettings, 0, 0, 0, 0, 0)
	b = append(b, 0, 0, byte(8+len(text)), frameGoAway, 0, 0, 0, 0, 0)
	b = append(b, 0, 0, 0, 0) // the last stream
	b = binary.BigEndian.AppendUint32(b, http11Required)
	return append(b, text...)
}
