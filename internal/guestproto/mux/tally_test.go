package mux_test

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"mvm/internal/guestproto/mux"
)

// What a guest has said before its end is read, however late: the end of the connection
// takes nothing from a stream that is read.
func TestLastWordsAreRead(t *testing.T) {
	host, guest := net.Pipe()
	srv := mux.NewServer(guest)
	defer srv.Close()
	const words = 30 // one frame: all of it is on the host where a part is
	said := bytes.Repeat([]byte(strings.Repeat("x", 999)+"\n"), words)
	done := make(chan error, 1)
	go func() {
		s, err := srv.Accept(t.Context())
		if err != nil {
			done <- err
			return
		}
		c, _, err := s.Accept()
		if err == nil {
			_, err = c.Write(said)
		}
		if err == nil { // which the host has
			_, err = io.ReadFull(c, make([]byte, 1))
		}
		guest.Close() // the VMM is killed
		done <- err
	}()
	s, err := mux.Client(deadline(t), host)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := s.Open(deadline(t), 52)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 1000)
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // a reader that has something else to do
	rest, err := io.ReadAll(c)
	if n := len(got) + len(rest); n != len(said) {
		t.Errorf("%d of %d bytes were read, then %v", n, len(said), err)
	}
	// Nobody reads: the session ends all the same.
	select {
	case <-s.Done():
	case <-time.After(time.Minute):
		t.Error("the session does not end")
	}
}
