// Package qmp is a small client of QEMU's machine protocol: JSON lines on a unix
// socket. The VMM is not trusted: lines are bounded, and what does not parse or
// answers nothing that was asked is dropped.
//
// QEMU serves one client at a time. A client that connects while another is there
// waits in the socket's backlog and gets no greeting; when an agent dies, the
// kernel closes its connection and the next client's turn comes. An answer to a
// command that the dead one had under way may still arrive: ids are random per
// client, so it is not mistaken.
package qmp

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"mvm"
)

// MaxLine bounds a line from the VMM.
const MaxLine = 1 << 20

// Event is something that the VMM tells by itself.
type Event struct {
	Name string
	Data json.RawMessage
	At   time.Time // by the host's clock, as the VMM tells it
}

// Error is a command's failure as the VMM tells it.
type Error struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

// Error returns the VMM's words.
func (e *Error) Error() string { return e.Desc }

// Client is one connection. Its methods may be called from many goroutines.
type Client struct {
	conn    *net.UnixConn
	prefix  string
	onEvent func(Event)
	done    chan struct{}

	wmu sync.Mutex

	mu      sync.Mutex
	n       int
	pending map[string]chan reply
	err     error // why done is closed
}

type reply struct {
	ret json.RawMessage
	err error
}

// message is any line of the VMM.
type message struct {
	QMP    *json.RawMessage `json:"QMP"`
	ID     string           `json:"id"`
	Return *json.RawMessage `json:"return"`
	Error  *Error           `json:"error"`
	Event  string           `json:"event"`
	Data   json.RawMessage  `json:"data"`
	Time   struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

// New greets the VMM on the connection, which it owns from then on, and leaves
// negotiation mode. onEvent is called for each event in turn from the reading
// goroutine and must not block or call the client. KindUnavailable when no
// greeting comes within ctx, or the VMM goes away.
func New(ctx context.Context, conn *net.UnixConn, onEvent func(Event)) (*Client, error) {
	var id [8]byte
	rand.Read(id[:])
	c := &Client{conn: conn, prefix: hex.EncodeToString(id[:]), onEvent: onEvent,
		done: make(chan struct{}), pending: map[string]chan reply{}}
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	r := bufio.NewReaderSize(conn, 16<<10)
	err := greeting(r)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		}
		return nil, mvm.Errorf(mvm.KindUnavailable, "read the VMM's greeting: %w", err)
	}
	go c.read(r)
	if err := c.Do(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func greeting(r *bufio.Reader) error {
	for {
		line, err := readLine(r)
		if err != nil {
			return err
		}
		var m message
		if json.Unmarshal(line, &m) == nil && m.QMP != nil {
			return nil
		}
	}
}

// readLine returns a line of at most MaxLine bytes; the slice is good until the next call.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err == nil {
		return line, nil
	}
	var long []byte
	for errors.Is(err, bufio.ErrBufferFull) {
		if long = append(long, line...); len(long) > MaxLine {
			return nil, fmt.Errorf("a line has more than %d bytes", MaxLine)
		}
		line, err = r.ReadSlice('\n')
	}
	return append(long, line...), err
}

func (c *Client) read(r *bufio.Reader) {
	var err error
	for {
		var line []byte
		if line, err = readLine(r); err != nil {
			break
		}
		var m message
		if json.Unmarshal(line, &m) != nil {
			continue
		}
		switch {
		case m.Event != "":
			if c.onEvent != nil {
				c.onEvent(Event{m.Event, bytes.Clone(m.Data), time.Unix(m.Time.Seconds, m.Time.Microseconds*1000)})
			}
		case m.Error != nil:
			c.answer(m.ID, reply{err: m.Error})
		case m.Return != nil:
			c.answer(m.ID, reply{ret: bytes.Clone(*m.Return)})
		}
	}
	c.mu.Lock()
	c.err = err
	c.mu.Unlock()
	c.conn.Close()
	close(c.done)
}

func (c *Client) answer(id string, r reply) {
	c.mu.Lock()
	ch := c.pending[id]
	delete(c.pending, id)
	c.mu.Unlock()
	if ch != nil {
		ch <- r
	}
}

// Do executes a command and waits for its answer, which is decoded into out unless
// that is nil. A refusal by the VMM is an *Error in the chain, of KindState; no
// answer within ctx, or a VMM that is gone, is KindUnavailable.
func (c *Client) Do(ctx context.Context, command string, args, out any) error {
	return c.do(ctx, command, args, out, nil)
}

// SendFile gives the file to the VMM under the name, for a later command. The
// caller keeps its own.
func (c *Client) SendFile(ctx context.Context, name string, f *os.File) error {
	return c.do(ctx, "getfd", map[string]string{"fdname": name}, nil, f)
}

// AddFile gives the file to the VMM, for commands that take a path: "/dev/fdset/<set>".
// The caller keeps its own, and removes the set with remove-fd.
func (c *Client) AddFile(ctx context.Context, f *os.File) (set int, err error) {
	var out struct {
		Set int `json:"fdset-id"`
	}
	err = c.do(ctx, "add-fd", nil, &out, f)
	return out.Set, err
}

func (c *Client) do(ctx context.Context, command string, args, out any, f *os.File) error {
	ch, id := c.register()
	defer c.answer(id, reply{}) // forget it
	if err := c.send(ctx, id, command, args, f); err != nil {
		c.conn.Close() // half a command may be on its way
		return mvm.Errorf(mvm.KindUnavailable, "send %s to the VMM: %w", command, err)
	}
	select {
	case r := <-ch:
		var refused *Error
		if errors.As(r.err, &refused) {
			return mvm.Errorf(mvm.KindState, "%s: the VMM refuses: %w", command, refused)
		}
		if out == nil {
			return nil
		}
		if err := json.Unmarshal(r.ret, out); err != nil {
			return mvm.Errorf(mvm.KindUnavailable, "%s: parse the VMM's answer: %w", command, err)
		}
		return nil
	case <-c.done:
		c.mu.Lock()
		defer c.mu.Unlock()
		return mvm.Errorf(mvm.KindUnavailable, "%s: the VMM exited: %w", command, c.err)
	case <-ctx.Done():
		return mvm.Errorf(mvm.KindUnavailable, "%s: the VMM does not answer: %w", command, context.Cause(ctx))
	}
}

func (c *Client) register() (<-chan reply, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	id := fmt.Sprintf("%s-%d", c.prefix, c.n)
	ch := make(chan reply, 1)
	c.pending[id] = ch
	return ch, id
}

func (c *Client) send(ctx context.Context, id, command string, args any, f *os.File) error {
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        string `json:"id"`
	}{command, args, id})
	if err != nil {
		return err
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	d, _ := ctx.Deadline()
	c.conn.SetWriteDeadline(d)
	if f == nil {
		_, err = c.conn.Write(append(line, '\n'))
		return err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return errors.Join(raw.Control(func(fd uintptr) {
		_, _, err = c.conn.WriteMsgUnix(append(line, '\n'), syscall.UnixRights(int(fd)), nil)
	}), err)
}

// Done is closed when the connection is over; every call has failed by then.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection and waits for the reader. It is idempotent.
func (c *Client) Close() error {
	c.conn.Close()
	<-c.done
	return nil
}
