package guestproto_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guestproto"
)

// answer serves one request on a pipe with fn and returns the asking end.
func answer(t *testing.T, fn func(net.Conn)) net.Conn {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer b.Close()
		fn(b)
	}()
	t.Cleanup(func() { a.Close(); <-done })
	return a
}

func TestCall(t *testing.T) {
	conn := answer(t, func(c net.Conn) {
		for range 2 {
			var req guestproto.Request
			if err := guestproto.Receive(c, &req); err != nil || !req.Ping {
				t.Errorf("server got %+v, %v", req, err)
			}
			if err := guestproto.Send(c, guestproto.Response{Pong: true}); err != nil {
				t.Error(err)
			}
		}
	})
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		resp, err := guestproto.Call(ctx, conn, guestproto.Request{Ping: true})
		cancel()
		if err != nil || !resp.Pong {
			t.Fatalf("Call = %+v, %v", resp, err)
		}
	}
}

func TestCallRemoteError(t *testing.T) {
	conn := answer(t, func(c net.Conn) {
		_ = guestproto.Receive(c, new(guestproto.HostRequest))
		_ = guestproto.Send(c, guestproto.HostResponse{Error: &guestproto.Error{Message: "no\x1b[31m " + strings.Repeat("x", 5000)}})
	})
	_, err := guestproto.HostCall(t.Context(), conn, guestproto.HostRequest{WakeInstance: &guestproto.InstanceName{}})
	var remote *guestproto.RemoteError
	if !errors.As(err, &remote) || !strings.HasPrefix(remote.Message, "no [31m") || len(remote.Message) > 1100 {
		t.Errorf("HostCall = %.80v, want a clean and clipped RemoteError", err)
	}
}

func TestCallEndsWithContext(t *testing.T) {
	silent := func(c net.Conn) { _ = guestproto.Receive(c, new(guestproto.Request)); _, _ = c.Read(make([]byte, 1)) }
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := guestproto.Call(short, answer(t, silent), guestproto.Request{Ping: true}); !mvm.IsKind(err, mvm.KindTimeout) {
		t.Errorf("Call past its deadline = %v, want a timeout", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := guestproto.Call(gone, answer(t, silent), guestproto.Request{Ping: true}); !mvm.IsKind(err, mvm.KindCanceled) {
		t.Errorf("Call with a cancelled context = %v, want canceled", err)
	}
}

func TestCallBadAnswers(t *testing.T) {
	for _, c := range []struct {
		name  string
		frame []byte
		kind  mvm.Kind
	}{
		{"hang up", nil, mvm.KindUnavailable},
		{"no message", []byte(`"Nope"`), mvm.KindInvalid},
	} {
		conn := answer(t, func(conn net.Conn) {
			_ = guestproto.Receive(conn, new(guestproto.Request))
			if c.frame != nil {
				_ = guestproto.WriteFrame(conn, c.frame)
			}
		})
		if _, err := guestproto.Call(t.Context(), conn, guestproto.Request{Ping: true}); !mvm.IsKind(err, c.kind) {
			t.Errorf("%s: Call = %v, want kind %s", c.name, err, c.kind)
		}
	}
}
