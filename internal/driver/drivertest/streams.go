package drivertest

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guestproto"
)

// The sizes of the stream cases.
const (
	bigTransfer     = 1 << 20
	manyOpens       = 500
	concurrentDials = 32
)

// closedPort: nothing listens there, so the dial fails or the stream ends at once.
func (l *life) closedPort(t *testing.T) {
	c, err := l.v.Dial(t.Context(), 4711)
	if err == nil {
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(l.Patience))
		if _, err := c.Read(make([]byte, 1)); err == nil || timedOut(err) {
			t.Errorf("stream to a closed port: %v, want its end", err)
		}
		return
	}
	wantKind(t, "dial of a closed port", err, mvm.KindUnavailable)
	l.awake(t, l.v)
}

// timedOut reports whether a read or write ended by its deadline.
func timedOut(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

func (l *life) concurrentDials(t *testing.T) {
	var wg sync.WaitGroup
	errs := make([]error, concurrentDials)
	for i := range errs {
		wg.Go(func() { errs[i] = ping(t.Context(), l.v, l.Patience) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

func (l *life) bigTransfer(t *testing.T) {
	want := make([]byte, bigTransfer)
	_, _ = rand.Read(want)
	if got := l.exec(t, l.v, want, "cat"); !bytes.Equal(got, want) {
		t.Errorf("%d bytes came back, not the %d that were sent", len(got), len(want))
	}
}

func (l *life) manyOpens(t *testing.T) {
	for i := range manyOpens {
		if err := ping(t.Context(), l.v, l.Patience); err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
	}
}

// vsock: the driver serves Firecracker's protocol on v.sock.
func (l *life) vsock(t *testing.T) {
	c, err := net.Dial("unix", filepath.Join(l.spec.RunDir, "v.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(l.Patience))
	fmt.Fprintf(c, "CONNECT %d\n", guestproto.GuestPort)
	line, err := readLine(c)
	if err != nil || !strings.HasPrefix(line, "OK ") {
		t.Fatalf("v.sock answered %q, %v", line, err)
	}
	resp, err := guestproto.Call(t.Context(), c, guestproto.Request{Ping: true})
	if err != nil || !resp.Pong {
		t.Errorf("ping over v.sock: %+v, %v", resp, err)
	}
}

// readLine reads byte by byte, so that nothing after the line is taken.
func readLine(r io.Reader) (string, error) {
	var line []byte
	for b := make([]byte, 1); len(line) < 64; {
		if _, err := r.Read(b); err != nil {
			return string(line), err
		}
		if b[0] == '\n' {
			break
		}
		line = append(line, b[0])
	}
	return string(line), nil
}
