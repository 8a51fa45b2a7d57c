package socket

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/coder/websocket"

	"mvm"
)

// lastWords bounds what is written to a client once its command must end.
const lastWords = time.Second

// Command is what has the streams of a WebSocket.
type Command struct {
	Run func(ctx context.Context, io mvm.ExecIO) (int, error)
	// End returns the last message: how Run ended.
	End func(ctx context.Context, code int, err error) []byte
	// Timeout bounds the sending of the last message.
	Timeout time.Duration
}

// Serve runs the command, whose context ends when the client hangs up, and tells how it ended.
func (c *Conn) Serve(ctx context.Context, cmd Command) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := &sender{c.ws}
	in := newInput(out)
	done := make(chan struct{})
	go func() {
		defer close(done)
		cancel(in.read(newReceiver(c.ws, MaxData)))
	}()
	stop := context.AfterFunc(ctx, func() {
		in.pipe.CloseWithError(context.Cause(ctx))
		time.AfterFunc(lastWords, c.hangUp)
	})
	code, err := cmd.Run(ctx, mvm.ExecIO{Stdin: in.pipe.reader(), Stdout: out.stream(stdout), Stderr: out.stream(stderr), Resize: in.resize})
	if why := context.Cause(ctx); err != nil && why != nil && mvm.KindOf(err) == mvm.KindInternal {
		err = mvm.Errorf(mvm.KindOf(why), "%w: %w", why, err) // it failed for want of its client
	}
	if stop() {
		defer time.AfterFunc(cmd.Timeout, c.hangUp).Stop()
	}
	c.last(cmd.End(ctx, code, err))
	in.pipe.CloseWithError(io.ErrClosedPipe)
	<-done
}

// Refuse tells the client why there is no command.
func (c *Conn) Refuse(end []byte, timeout time.Duration) {
	_ = c.raw.SetWriteDeadline(time.Now().Add(timeout))
	c.last(end)
}

// closeTime is how long a client may take to read what is on its way and to close its side.
const closeTime = 5 * time.Second

// last sends the last message, and ends.
func (c *Conn) last(text []byte) {
	if c.ws.Write(context.Background(), websocket.MessageText, text) == nil {
		c.End(closeTime)
	}
	c.cut()
}

// input takes the client's messages apart without ever waiting for the command.
type input struct {
	pipe   *stdinQueue
	resize chan [2]uint16
}

func newInput(out *sender) *input {
	return &input{pipe: newStdinQueue(func() error { return out.send(consumed, nil) }), resize: make(chan [2]uint16, 1)}
}

var errHangUp = errors.New("client hung up")

// read takes messages until the connection ends, and says why it did.
func (i *input) read(r *receiver) error {
	defer close(i.resize)
	for {
		text, message, err := r.next()
		switch {
		case mvm.IsKind(err, mvm.KindInvalid):
			return err
		case err != nil:
			return mvm.Errorf(mvm.KindCanceled, "exec: %w", errHangUp)
		case text:
			return mvm.Errorf(mvm.KindInvalid, "exec message is text: what comes after the first one is binary")
		}
		if err := i.take(message[0], message[1:]); err != nil {
			return err
		}
	}
}

func (i *input) take(kind byte, data []byte) error {
	switch kind {
	case stdin:
		return i.pipe.put(data)
	case stdinEnd:
		i.pipe.CloseWithError(io.EOF)
		return nil
	case resize:
		if len(data) != 4 {
			return mvm.Errorf(mvm.KindInvalid, "exec resize frame has %d bytes, not 4", len(data))
		}
		size := [2]uint16{binary.BigEndian.Uint16(data), binary.BigEndian.Uint16(data[2:])}
		select { // the newest size counts
		case <-i.resize:
		default:
		}
		i.resize <- size
		return nil
	}
	return mvm.Errorf(mvm.KindInvalid, "exec message of unknown type %d", kind)
}
