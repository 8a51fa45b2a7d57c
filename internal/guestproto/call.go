package guestproto

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"time"
	"unicode"

	"mvm"
)

// RemoteError is an {"Error":…} that the peer answered. Its text comes from the
// peer: it is clipped and holds no control characters, but is not to be believed.
type RemoteError struct {
	Message string
}

// Error returns the peer's message.
func (e *RemoteError) Error() string { return "peer answered: " + e.Message }

// Send writes one message or ExecFrame as a frame.
func Send(w io.Writer, message any) error {
	b, err := Encode(message)
	if err != nil {
		return err
	}
	return WriteFrame(w, b)
}

// Receive reads one frame into a message or ExecFrame. A frame that is not a
// message is KindInvalid with a *VariantError or syntax error in its chain.
func Receive(r io.Reader, message any) error {
	b, err := ReadFrame(r)
	if err != nil {
		return err
	}
	return Decode(b, message)
}

// Call sends a request of port 52 and returns the answer. The connection can be
// used for the next call when it succeeded or the error is a *RemoteError
// (KindInternal); after any other error it must be closed. It honours ctx by the
// connection's deadlines, and clears them at the end. KindTimeout, KindCanceled
// and KindUnavailable say that no answer came.
func Call(ctx context.Context, conn net.Conn, req Request) (Response, error) {
	var resp Response
	if err := exchange(ctx, conn, req, &resp); err != nil {
		return Response{}, mvm.Errorf(mvm.KindOf(err), "ask guest %s: %w", Variant(req), err)
	}
	if resp.Error != nil {
		return resp, mvm.Errorf(mvm.KindInternal, "ask guest %s: %w", Variant(req), remote(resp.Error))
	}
	return resp, nil
}

// HostCall sends a request of port 53, otherwise like Call.
func HostCall(ctx context.Context, conn net.Conn, req HostRequest) (HostResponse, error) {
	var resp HostResponse
	if err := exchange(ctx, conn, req, &resp); err != nil {
		return HostResponse{}, mvm.Errorf(mvm.KindOf(err), "ask host %s: %w", Variant(req), err)
	}
	if resp.Error != nil {
		return resp, mvm.Errorf(mvm.KindInternal, "ask host %s: %w", Variant(req), remote(resp.Error))
	}
	return resp, nil
}

func exchange(ctx context.Context, conn net.Conn, req, resp any) error {
	release := Bind(ctx, conn)
	err := Send(conn, req)
	if err == nil {
		err = Receive(conn, resp)
	}
	release()
	switch {
	case err == nil || mvm.IsKind(err, mvm.KindInvalid):
		return err
	case ctx.Err() == context.Canceled:
		return mvm.Errorf(mvm.KindCanceled, "%w", context.Canceled)
	case ctx.Err() != nil || isTimeout(err):
		return mvm.Errorf(mvm.KindTimeout, "no answer in time: %w", err)
	}
	return mvm.Errorf(mvm.KindUnavailable, "%w", err)
}

// Bind makes reads and writes on the connection end when ctx does. The function
// that it returns undoes that and clears the deadlines; call it once.
func Bind(ctx context.Context, conn net.Conn) (release func()) {
	if t, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(t)
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = conn.SetDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-done
		}
		_ = conn.SetDeadline(time.Time{})
	}
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

func remote(e *Error) *RemoteError {
	clean := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, e.Message)
	if len(clean) > 1024 {
		clean = clean[:1024] + "…"
	}
	return &RemoteError{Message: clean}
}
