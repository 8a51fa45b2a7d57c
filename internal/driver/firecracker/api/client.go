// Package api asks a Firecracker process through its API: each request has a type, a
// deadline, and a bound for its answer. What Firecracker refuses is told in its own words.
//
// Whoever answers may be a VMM that was taken over: what it says is data for people, and
// cut to a length.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"mvm"
)

// Bounds of one request.
const (
	// Timeout bounds a request that does no work in the VMM.
	Timeout = 20 * time.Second
	// WorkTimeout bounds one that reads or writes the guest's memory.
	WorkTimeout = 10 * time.Minute

	maxAnswer = 64 << 10
	maxFault  = 400 // bytes of a fault's words
)

// FaultError is what Firecracker says that it can't or won't do.
type FaultError struct {
	Status  int
	Message string
}

// Error returns Firecracker's words.
func (e *FaultError) Error() string { return e.Message }

// Client asks one Firecracker process. It holds no connection.
type Client struct {
	http http.Client
}

// New makes a client that connects with dial.
func New(dial func(ctx context.Context) (net.Conn, error)) *Client {
	return &Client{http.Client{
		Transport: &http.Transport{
			DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxAnswer,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// SetMachine sets the size of the machine.
func (c *Client) SetMachine(ctx context.Context, m MachineConfig) error {
	return c.put(ctx, "/machine-config", m)
}

// SetBootSource sets what the machine boots.
func (c *Client) SetBootSource(ctx context.Context, b BootSource) error {
	return c.put(ctx, "/boot-source", b)
}

// AddDrive adds a disk; the order of the calls is that of the guest's disks.
func (c *Client) AddDrive(ctx context.Context, d Drive) error { return c.put(ctx, "/drives/"+d.ID, d) }

// AddNetwork adds a network interface.
func (c *Client) AddNetwork(ctx context.Context, n NetworkInterface) error {
	return c.put(ctx, "/network-interfaces/"+n.ID, n)
}

// SetVsock adds the vsock device.
func (c *Client) SetVsock(ctx context.Context, v Vsock) error { return c.put(ctx, "/vsock", v) }

// SetEntropy adds the entropy device.
func (c *Client) SetEntropy(ctx context.Context, e Entropy) error { return c.put(ctx, "/entropy", e) }

// SetLogger sets the log of this process.
func (c *Client) SetLogger(ctx context.Context, l Logger) error { return c.put(ctx, "/logger", l) }

// SetMetrics sets where this process writes metrics.
func (c *Client) SetMetrics(ctx context.Context, m Metrics) error { return c.put(ctx, "/metrics", m) }

// SetSerial sets where this process writes the guest's console.
func (c *Client) SetSerial(ctx context.Context, s Serial) error { return c.put(ctx, "/serial", s) }

// Act has an action done.
func (c *Client) Act(ctx context.Context, action string) error {
	return c.put(ctx, "/actions", Action{action})
}

// SetState pauses or resumes the vCPUs.
func (c *Client) SetState(ctx context.Context, state string) error {
	return c.do(ctx, http.MethodPatch, "/vm", VM{state}, nil, Timeout)
}

// Create writes a snapshot of a machine that is paused.
func (c *Client) Create(ctx context.Context, s SnapshotCreate) error {
	return c.do(ctx, http.MethodPut, "/snapshot/create", s, nil, WorkTimeout)
}

// Load makes a paused machine of a snapshot. After an error the process ends.
func (c *Client) Load(ctx context.Context, s SnapshotLoad) error {
	return c.do(ctx, http.MethodPut, "/snapshot/load", s, nil, WorkTimeout)
}

// Describe says what state the machine is in.
func (c *Client) Describe(ctx context.Context) (info Info, err error) {
	err = c.do(ctx, http.MethodGet, "/", nil, &info, Timeout)
	return info, err
}

func (c *Client) put(ctx context.Context, path string, body any) error {
	return c.do(ctx, http.MethodPut, path, body, nil, Timeout)
}

// do makes one request. KindInvalid with a FaultError where Firecracker refuses it,
// KindUnavailable where it does not answer.
func (c *Client) do(ctx context.Context, method, path string, body, out any, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var sent io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return mvm.Errorf(mvm.KindInternal, "ask Firecracker %s %s: %w", method, path, err)
		}
		sent = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, sent)
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "ask Firecracker %s %s: %w", method, path, err)
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.failed(ctx, method, path, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return c.failed(ctx, method, path, err)
	}
	if len(answer) > maxAnswer {
		return mvm.Errorf(mvm.KindUnavailable, "ask Firecracker %s %s: the answer has more than %d bytes", method, path, maxAnswer)
	}
	if resp.StatusCode/100 != 2 {
		return mvm.Errorf(mvm.KindInvalid, "ask Firecracker %s %s: %w", method, path, faultOf(resp.StatusCode, answer))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return mvm.Errorf(mvm.KindUnavailable, "ask Firecracker %s %s: read the answer: %w", method, path, err)
	}
	return nil
}

func (c *Client) failed(ctx context.Context, method, path string, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	kind := mvm.KindUnavailable
	if errors.Is(err, context.Canceled) {
		kind = mvm.KindCanceled
	}
	return mvm.Errorf(kind, "ask Firecracker %s %s: %w", method, path, err)
}

// faultOf is the error in an answer's body.
func faultOf(status int, body []byte) *FaultError {
	var b struct {
		Message string `json:"fault_message"`
	}
	if json.Unmarshal(body, &b) != nil || b.Message == "" {
		b.Message = string(body)
	}
	words := strings.Join(strings.Fields(strings.ToValidUTF8(b.Message, "?")), " ")
	if len(words) > maxFault {
		words = strings.ToValidUTF8(words[:maxFault], "") + "…"
	}
	if words == "" {
		words = fmt.Sprintf("status %d without words", status)
	}
	return &FaultError{Status: status, Message: words}
}
