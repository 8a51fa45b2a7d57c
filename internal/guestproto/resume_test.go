package guestproto_test

import (
	"bytes"
	"testing"

	"mvm/internal/guestproto"
)

// FuzzResumed: whatever a guest answers to its greeting is refused or says what its
// bytes say, and nothing else.
func FuzzResumed(f *testing.F) {
	f.Add(guestproto.Resumed{Clean: true, InForce: true, UnixNanos: -1}.Encode())
	f.Add(guestproto.Resumed{UnixNanos: 1 << 62}.Encode())
	f.Add([]byte{})
	f.Add(make([]byte, guestproto.ResumedLen+1))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := guestproto.DecodeResumed(b)
		if (err == nil) != (len(b) == guestproto.ResumedLen) {
			t.Fatalf("%d bytes: got %+v, %v", len(b), r, err)
		}
		if err != nil {
			return
		}
		again, err := guestproto.DecodeResumed(r.Encode())
		if err != nil || again != r {
			t.Errorf("%x is %+v, and its own form is %+v, %v", b, r, again, err)
		}
	})
}

// FuzzResume: the greeting is read as it was written, whole or not at all.
func FuzzResume(f *testing.F) {
	f.Add(guestproto.Resume{UnixNanos: 1, AdvanceNanos: -2, Entropy: [32]byte{3}, Digest: [32]byte{31: 4}}.Encode())
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := guestproto.DecodeResume(b)
		if (err == nil) != (len(b) == guestproto.ResumeLen) {
			t.Fatalf("%d bytes: got %+v, %v", len(b), r, err)
		}
		if err == nil && !bytes.Equal(r.Encode(), b) {
			t.Errorf("%x becomes %x", b, r.Encode())
		}
	})
}
