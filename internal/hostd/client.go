package hostd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"mvm"
	"mvm/internal/sys"
)

const (
	// dialPatience is how long a server may be away, as it is while it is restarted.
	dialPatience = 5 * time.Second
	dialPoll     = 20 * time.Millisecond
	// callTimeout is longer than any request takes.
	callTimeout = workTimeout + 10*time.Second
)

// Client asks a Server. It may be used from many goroutines. It holds nothing open.
type Client struct {
	path string
	own  Scope // zero: not looked at

	mu      sync.Mutex
	checked string // the epoch of the server whose scope is this one's
}

// Scope is for whom a server works.
type Scope struct {
	Mark      string `json:"mark"` // of the data dir, see package owner
	RunRoot   string `json:"run_root"`
	ProbeRoot string `json:"probe_root"`
	FirstUID  int    `json:"first_uid"`
}

// For has the client use no server but one of the scope. It returns the client.
func (c *Client) For(own Scope) *Client {
	c.own = own
	return c
}

// NewClient returns a Client of the server at the socket. It does not connect.
func NewClient(path string) *Client { return &Client{path: path} }

// Hello returns an error, KindUnavailable or KindPolicy, when the server does not
// answer this process.
func (c *Client) Hello(ctx context.Context) error {
	_, err := c.epoch(ctx)
	return err
}

// epoch is another for each process that serves.
func (c *Client) epoch(ctx context.Context) (string, error) {
	h, _, err := call[hello](ctx, c, opHello, none{}, nil)
	if err == nil {
		err = c.check(ctx, h.Epoch)
	}
	return h.Epoch, err
}

// check refuses a server that works for another agent, whose networks this one's would
// replace. It asks each server once.
func (c *Client) check(ctx context.Context, epoch string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.own == (Scope{}) || c.checked == epoch {
		return nil
	}
	a, _, err := call[scopeAnswer](ctx, c, opScope, none{}, nil)
	if mvm.IsKind(err, mvm.KindInvalid) {
		return mvm.Errorf(mvm.KindState, "use mvm hostd at %s: it is from an older mvm version", c.path).WithFix("restart it: systemctl restart mvm-hostd")
	}
	if err != nil {
		return err
	}
	what := ""
	switch s := a.Scope; {
	case s.Mark != c.own.Mark, s.ProbeRoot != c.own.ProbeRoot:
		what = "data dir, which has " + s.ProbeRoot
	case s.RunRoot != c.own.RunRoot:
		what = "run dir, which has " + s.RunRoot
	case s.FirstUID != c.own.FirstUID:
		what = fmt.Sprintf("uid_base, %d", s.FirstUID)
	default:
		c.checked = epoch
		return nil
	}
	return mvm.Errorf(mvm.KindState, "use mvm hostd at %s: it serves an agent with another %s", c.path, what).
		WithFix("use the same config for both, or give this agent its own hostd (hostd_socket)")
}

// call does one request. The files that come back are the caller's.
func call[T any](ctx context.Context, c *Client, o op, in any, files []*os.File) (out T, got []*os.File, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := c.dial(ctx)
	if err != nil {
		return out, nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	sendErr := send(conn, byte(o), in, files)
	if sendErr != nil && !errors.Is(sendErr, syscall.EPIPE) { // which is one that is refused before it is read
		return out, nil, c.broken(ctx, sendErr)
	}
	kind, body, got, err := receive(conn, func(byte) int { return maxAnswer }, maxBack)
	if err != nil {
		return out, nil, c.broken(ctx, errors.Join(sendErr, err))
	}
	if kind != answered {
		closeAll(got)
		return out, nil, refusal(body)
	}
	if out, err = decode[T](body); err != nil {
		closeAll(got)
		return out, nil, mvm.Errorf(mvm.KindUnavailable, "read the answer of mvm hostd: %w", err)
	}
	return out, got, nil
}

// dial connects, waiting a little for a server that is being restarted.
func (c *Client) dial(ctx context.Context) (*net.UnixConn, error) {
	var d net.Dialer
	for end := time.Now().Add(dialPatience); ; {
		conn, err := d.DialContext(ctx, "unix", c.path)
		if err == nil {
			return c.trust(conn.(*net.UnixConn))
		}
		away := errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EAGAIN)
		if ctx.Err() != nil || !away || time.Now().After(end) {
			return nil, c.broken(ctx, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(dialPoll):
		}
	}
}

// trust makes sure that a server of root's, or of this user's, is at the other end.
func (c *Client) trust(conn *net.UnixConn) (*net.UnixConn, error) {
	at, err := peer(conn)
	if err == nil && at.UID != 0 && at.UID != os.Geteuid() {
		err = mvm.Errorf(mvm.KindPolicy, "ask mvm hostd at %s: it runs as user %d, not as root", c.path, at.UID)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// broken is the error of a connection that failed.
func (c *Client) broken(ctx context.Context, err error) error {
	e := c.explain(ctx, err)
	if e.Kind == mvm.KindUnavailable || e.Kind == mvm.KindTimeout {
		e.Err = errors.Join(sys.ErrAway, e.Err)
	}
	return e
}

func (c *Client) explain(ctx context.Context, err error) *mvm.Error {
	switch cause := ctx.Err(); {
	case errors.Is(cause, context.DeadlineExceeded):
		return mvm.Errorf(mvm.KindTimeout, "ask mvm hostd at %s: %w", c.path, context.Cause(ctx))
	case cause != nil:
		return mvm.Errorf(mvm.KindCanceled, "ask mvm hostd at %s: %w", c.path, context.Cause(ctx))
	case errors.Is(err, syscall.EACCES):
		return mvm.Errorf(mvm.KindPolicy, "ask mvm hostd at %s: %w", c.path, err).WithFix("run the agent as the user in hostd_user")
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return mvm.Errorf(mvm.KindUnavailable, "ask mvm hostd at %s: it ended the connection: %w", c.path, err).
			WithFix("see hostd's log; it serves only root and the user in hostd_user")
	}
	return mvm.Errorf(mvm.KindUnavailable, "ask mvm hostd at %s: %w", c.path, err).WithFix("check whether it runs: systemctl status mvm-hostd")
}

// refusal is the error that an answer tells of.
func refusal(body []byte) error {
	f, err := decode[failure](body)
	if err != nil {
		return mvm.Errorf(mvm.KindUnavailable, "read the answer of mvm hostd: %w", err)
	}
	e := mvm.Errorf(f.Kind, "%s", f.Text)
	switch {
	case f.Gone:
		e.Err = sys.ErrNoProcess
	case f.Unmapped:
		e.Err = sys.ErrNoMapping
	case f.Errno != 0:
		e.Err = f.Errno
	}
	if f.Fix != "" {
		e = e.WithFix("%s", f.Fix)
	}
	return e
}
