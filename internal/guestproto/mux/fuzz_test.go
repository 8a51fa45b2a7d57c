package mux_test

import (
	"bytes"
	"context"
	"net"
	"testing"
	"time"

	"mvm/internal/guestproto/mux"
)

var record = append([]byte{0xC5, 0x01, 'O', '1'}, bytes.Repeat([]byte("0"), 32)...)

// FuzzLink: data arrives as it was whatever it looks like; and behind any bytes at
// all, however they were cut, a control record is found.
func FuzzLink(f *testing.F) {
	f.Add([]byte("hello"), byte(3))
	f.Add([]byte{0xC5, 0xC5, 0x00, 0xC5, 0x01}, byte(1))
	f.Add(record[:20], byte(7))
	f.Add(append(bytes.Clone(record), 0xC5), byte(255))
	f.Fuzz(func(t *testing.T, p []byte, step byte) {
		n := int(step) + 1
		got, records, err := mux.Decode(mux.Stuff(p), n)
		if err != nil || records != 0 || !bytes.Equal(got, p) {
			t.Errorf("%x came back as %x with %d records, %v", p, got, records, err)
		}
		_, before, err := mux.Decode(p, n)
		if err != nil {
			return // not what an end of the link sends: the session ends there
		}
		_, after, err := mux.Decode(append(bytes.Clone(p), record...), n)
		if err != nil || after != before+1 {
			t.Errorf("behind %x: %d records, then %d, %v", p, before, after, err)
		}
	})
}

// FuzzHostileGuest: whatever a guest writes, the host's side ends with its context.
func FuzzHostileGuest(f *testing.F) {
	f.Add([]byte{}, []byte{0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0})
	f.Add([]byte("junk\xc5"), bytes.Repeat([]byte{0, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0}, 100))
	f.Add(record, []byte{0, 0, 0, 1, 0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff, 1, 2, 3})
	f.Add([]byte{}, []byte{0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, before, session []byte) {
		guest, host := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer guest.Close()
			open := make([]byte, 36)
			if _, err := guest.Read(open); err != nil {
				return
			}
			go func() { // takes what the host says
				buf := make([]byte, 4096)
				for {
					if _, err := guest.Read(buf); err != nil {
						return
					}
				}
			}()
			guest.Write(before)
			open[2] = 'A'
			guest.Write(open)
			guest.Write(mux.Stuff(session))
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		s, err := mux.Client(ctx, host)
		if err == nil {
			go func() {
				for {
					c, _, err := s.Accept()
					if err != nil {
						return
					}
					c.Close()
				}
			}()
			<-s.Done() // the guest has closed
			s.Close()
		}
		<-done
	})
}
