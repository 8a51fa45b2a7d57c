// Package socket carries the streams of a command, or lines of JSON, over a WebSocket (RFC
// 6455), so that a browser can be the client. It knows no noun but the streams.
//
// A command's WebSocket has the subprotocol Protocol. The client's first message is text: what
// to run, in JSON. All further ones are binary: a byte that says what it is, and at most MaxData
// bytes.
//
//	client -> server  0 stdin (data), 1 end of stdin, 2 size (rows, columns: 2 bytes each, big-endian)
//	server -> client  3 stdout, 4 stderr (data), 5 a message of stdin was consumed
//
// The last message of the server is text: how the command ended, in JSON. Then it closes the
// WebSocket. The client has at most Window messages of stdin that were not consumed, so that the
// server reads on, and notices a hang-up, even when the command reads nothing. Output waits for
// the client.
package socket

const (
	Protocol = "v1.exec.mvm" // of a command's streams
	Lines    = "v1.lines.mvm"

	MaxData = 32 << 10
	Window  = 16

	// A text is JSON, of at most this size at the client.
	maxText = 1 << 20
)

// What a message is.
const (
	stdin byte = iota
	stdinEnd
	resize
	stdout
	stderr
	consumed
)
