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

// post sends the message to the worker, and looks at the answer.
func (q *Queue) post(ctx context.Context, lease Lease, m Message) error {
	c := q.opt.Channel
	instance, _ := lease.Instance()
	a, err := Exchange(ctx, lease, c.Channel, m, q.header(instance, m), 0)
	switch {
	case err != nil:
		return err
	case a.Status/100 != 2:
		return a.Refused("")
	case c.To.Accept == mvm.AcceptDurable && a.Header.Get(durableHeader) != "durable":
		return a.Refused(" without " + durableHeader + ": durable")
	}
	return nil
}

// Answer is what a worker answered to a message.
type Answer struct {
	Instance string
	Status   int
	Header   http.Header
	Body     []byte // as far as it was wanted
}

// Refused is the answer as one that does not count as delivered.
func (a Answer) Refused(detail string) *Refusal {
	return &Refusal{Instance: a.Instance, Status: a.Status, After: retryAfter(a.Header, time.Now()), Why: "the worker answered " + strconv.Itoa(a.Status) + detail}
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
	return h
}

// Exchange posts the message to where the channel leads, on a connection of its own, and
// reads the answer, with up to most bytes of its body.
func Exchange(ctx context.Context, lease Lease, c mvm.Channel, m Message, header http.Header, most int64) (Answer, error) {
	instance, _ := lease.Instance()
	header.Set("Content-Type", "application/json")
	header.Set("User-Agent", "mvm")
	conn, err := lease.Dial(ctx, c.To.TargetPort)
	if err != nil {
		return Answer{}, mvm.Errorf(mvm.KindUnavailable, "connect to port %d of instance %s: %w", c.To.TargetPort, instance, err)
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	a, err := exchange(ctx, conn, c.To.Path, header, m.Body, most)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return Answer{}, mvm.Errorf(mvm.KindUnavailable, "send message %d to instance %s: %w", m.ID, instance, err)
	}
	a.Instance = instance
	return a, nil
}

func exchange(ctx context.Context, conn net.Conn, path string, header http.Header, body []byte, most int64) (a Answer, err error) {
	req := (&http.Request{Method: http.MethodPost, URL: &url.URL{Scheme: "http", Host: conn.RemoteAddr().String(), Path: path},
		ProtoMajor: 1, ProtoMinor: 1, Host: conn.RemoteAddr().String(), Header: header, Close: true,
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body))}).WithContext(ctx)
	if err := req.Write(conn); err != nil {
		return a, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxAnswer+most)), req)
	if err != nil {
		return a, err
	}
	a.Status, a.Header = resp.StatusCode, resp.Header
	if most > 0 {
		a.Body, err = io.ReadAll(io.LimitReader(resp.Body, most+1))
		if err == nil && int64(len(a.Body)) > most {
			err = fmt.Errorf("its answer has more than %d bytes", most)
		}
	}
	_ = resp.Body.Close()
	return a, err
}
