package socket

import (
	"testing"

	"mvm"
)

// FuzzMessages feeds messages of a client: whatever comes, a fault is one of kind invalid, and no
// more waits for the command than the window.
func FuzzMessages(f *testing.F) {
	f.Add([]byte{1, 0, 'x'})
	f.Add([]byte{5, 2, 0, 1, 0, 2})
	f.Add([]byte{1, 1, 1, 0, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		in := &input{pipe: newStdinQueue(func() error { return nil }), resize: make(chan [2]uint16, 1)}
		for len(b) > 1 { // a length, and that much
			n := min(int(b[0])+1, len(b)-1)
			message := b[1 : 1+n]
			b = b[1+n:]
			if err := in.take(message[0], message[1:]); err != nil && !mvm.IsKind(err, mvm.KindInvalid) {
				t.Fatalf("%q: %v", message, err)
			}
			if n := len(in.pipe.frames); n > Window {
				t.Fatalf("%d messages wait", n)
			}
		}
	})
}
