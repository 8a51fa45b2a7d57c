package chat

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"mvm"
)

// Refusal is an answer of a worker that does not count as delivered.
type Refusal struct {
	Instance string
	Status   int
	Why      string
	After    time.Duration // by the answer's Retry-After
	Final    bool          // trying again is of no use
}

func (e *Refusal) Error() string { return e.Why }

// durableHeader is where a worker says that it keeps a message.
const durableHeader = "X-Openclaw-Delivery-Accepted"

// maxAnswer bounds what is read of a worker's answer.
const maxAnswer = 64 << 10

// post sends the message to the worker, on a connection of its own, and looks at the answer.
func (q *Queue) post(ctx context.Context, lease Lease, m Message) error {
	c := q.opt.Channel
	instance, _ := lease.Instance()
	conn, err := lease.Dial(ctx, c.To.TargetPort)
	if err != nil {
		return mvm.Errorf(mvm.KindUnavailable, "connect to port %d of instance %s: %w", c.To.TargetPort, instance, err)
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	resp, err := exchange(ctx, conn, c.To.Path, q.header(instance, m), m.Body)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return mvm.Errorf(mvm.KindUnavailable, "send message %d to instance %s: %w", m.ID, instance, err)
	}
	no := func(format string, args ...any) error {
		return &Refusal{Instance: instance, Status: resp.StatusCode, After: retryAfter(resp.Header, time.Now()), Why: "the worker answered " + strconv.Itoa(resp.StatusCode) + fmt.Sprintf(format, args...)}
	}
	switch {
	case resp.StatusCode/100 != 2:
		return no("")
	case c.To.Accept == mvm.AcceptDurable && resp.Header.Get(durableHeader) != "durable":
		return no(" without %s: durable", durableHeader)
	}
	return nil
}

// retryAfter reads Retry-After, in seconds or as a date; 0: there is none.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := h.Get("Retry-After")
	if n, err := strconv.ParseInt(text, 10, 32); err == nil {
		return time.Duration(max(n, 0)) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

// header is the head of a message to the instance.
func (q *Queue) header(instance string, m Message) http.Header {
	h := http.Header{}
	if q.opt.Header != nil {
		h = q.opt.Header(instance, m)
	}
	h.Set("Content-Type", "application/json")
	h.Set("User-Agent", "mvm")
	return h
}

// exchange sends the request and reads the answer, all of which is bounded.
func exchange(ctx context.Context, conn net.Conn, path string, header http.Header, body []byte) (*http.Response, error) {
	req := (&http.Request{Method: http.MethodPost, URL: &url.URL{Scheme: "http", Host: conn.RemoteAddr().String(), Path: path},
		ProtoMajor: 1, ProtoMinor: 1, Host: conn.RemoteAddr().String(), Header: header, Close: true,
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body))}).WithContext(ctx)
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxAnswer)), req)
	if err == nil { // nobody wants to know the body
		_ = resp.Body.Close()
	}
	return resp, err
}
