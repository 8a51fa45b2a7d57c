package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"time"

	"mvm"
)

// Client is the agent's Service in another process. It is safe for concurrent use.
//
// Its errors have the agent's kinds. KindUnavailable: nobody answers on the socket,
// or the agent went away before its answer; what was asked for may have happened.
// A context that ends stops the waiting; see Server for what goes on in the agent.
type Client struct {
	where  string // the agent is, for people
	base   string // of URLs
	remote bool
	http   *http.Client
}

var _ Service = (*Client)(nil)

// Dial returns a client for the agent at the socket. It connects at the first call.
func Dial(socket string) *Client {
	d := &net.Dialer{Timeout: 5 * time.Second}
	return &Client{where: socket, base: "http://agent", http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", socket)
		},
		DisableCompression: true,
		MaxIdleConns:       4,
		IdleConnTimeout:    10 * time.Second,
	}}}
}

// Remote reports whether the agent is reached over a network.
func (c *Client) Remote() bool { return c.remote }

// RemoteHost is the name or address of the host that is reached over a network; empty:
// the agent is on this host.
func (c *Client) RemoteHost() string {
	if !c.remote {
		return ""
	}
	host, _, err := net.SplitHostPort(c.where)
	if err != nil {
		return c.where
	}
	return host
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Version asks for the agent's version; a cheap way to see whether it answers.
func (c *Client) Version(ctx context.Context) (Version, error) {
	return call[Version](ctx, c, "GET", "/v1/version", nil)
}

// OpenAPI asks for the schema of the API, as JSON.
func (c *Client) OpenAPI(ctx context.Context) ([]byte, error) {
	return call[json.RawMessage](ctx, c, "GET", "/v1/openapi.json", nil)
}

// send makes the request and returns an answer with status 200 or 101.
func (c *Client) send(ctx context.Context, method, path string, in any, header http.Header) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, mvm.Errorf(mvm.KindInternal, "encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "make request: %w", err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if id := mvm.RequestFrom(ctx); id != "" {
		req.Header.Set(RequestHeader, id)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody))
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	return nil, fromStatus(resp.StatusCode, b)
}

// explain turns a failure of the connection into an error that says what to do.
func (c *Client) explain(ctx context.Context, err error) error {
	var inner *url.Error
	if errors.As(err, &inner) {
		err = inner.Err
	}
	if err := c.explainRemote(ctx, err); err != nil {
		return err
	}
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return mvm.Errorf(mvm.KindTimeout, "wait for agent: %w", ctx.Err())
	case ctx.Err() != nil:
		return mvm.Errorf(mvm.KindCanceled, "stopped waiting for the agent: %w", ctx.Err())
	case errors.Is(err, fs.ErrPermission):
		return mvm.Errorf(mvm.KindPolicy, "user %d may not use the agent at %s", os.Geteuid(), c.where).
			WithFix("run as root or join the group of the socket")
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return mvm.Errorf(mvm.KindUnavailable, "agent not reachable at %s", c.where).WithFix("start it with `mvm agent serve`")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return mvm.Errorf(mvm.KindUnavailable, "agent at %s ended the connection before it answered", c.where).
			WithFix("see the agent's log; the request may have taken effect")
	}
	return mvm.Errorf(mvm.KindUnavailable, "talk to agent at %s: %w", c.where, err)
}

// call asks for one value.
func call[Out any](ctx context.Context, c *Client, method, path string, in any) (Out, error) {
	var out Out
	resp, err := c.send(ctx, method, path, in, nil)
	if err != nil {
		return out, err
	}
	defer func() { _ = resp.Body.Close() }()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&out); err != nil {
		return out, c.explain(ctx, err)
	}
	return out, nil
}

// watch asks for long work: lines of progress, then a value.
func watch[Out any](ctx context.Context, c *Client, method, path string, in any, progress func(mvm.Progress)) (Out, error) {
	var out Out
	err := readLines(ctx, c, method, path, in, func(l line[Out]) error {
		switch {
		case l.Progress != nil && progress != nil:
			progress(l.Progress.Noun())
		case l.Result != nil:
			out = *l.Result
		}
		return nil
	})
	return out, err
}

// items asks for a stream of items.
func items[Item any](ctx context.Context, c *Client, path string, each func(Item) error) error {
	return readLines(ctx, c, "GET", path, nil, func(l line[Item]) error {
		if l.Item != nil {
			return each(*l.Item)
		}
		return nil
	})
}

// readLines reads a stream to its last line, which has a result or an error.
func readLines[T any](ctx context.Context, c *Client, method, path string, in any, each func(line[T]) error) error {
	resp, err := c.send(ctx, method, path, in, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(make([]byte, 0, 64<<10), maxLine)
	for sc.Scan() {
		var l line[T]
		if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
			return mvm.Errorf(mvm.KindInternal, "read answer of agent: %w", err)
		}
		if l.Error != nil {
			return fromBody(l.Error)
		}
		if err := each(l); err != nil {
			return err
		}
		if l.Result != nil {
			return nil
		}
	}
	if err := sc.Err(); err != nil {
		return c.explain(ctx, err)
	}
	return c.explain(ctx, io.ErrUnexpectedEOF)
}
