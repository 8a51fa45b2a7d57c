package socket

import (
	"context"
	"time"

	"github.com/coder/websocket"

	"mvm"
)

// Texts sends texts to a client that sends none.
type Texts struct {
	conn    *Conn
	timeout time.Duration
}

// NewTexts returns the Texts of a WebSocket, of which each must be taken within the timeout, and
// a context that also ends when the client closes, hangs up or sends something.
func NewTexts(ctx context.Context, c *Conn, timeout time.Duration) (context.Context, *Texts) {
	c.ws.SetReadLimit(maxControl)
	return c.ws.CloseRead(ctx), &Texts{conn: c, timeout: timeout}
}

// maxControl is more than what a client sends that is no message.
const maxControl = 512

// Send sends one. After an error every further one fails.
func (t *Texts) Send(b []byte) error {
	_ = t.conn.raw.SetWriteDeadline(time.Now().Add(t.timeout))
	if err := t.conn.ws.Write(context.Background(), websocket.MessageText, b); err != nil {
		return mvm.Errorf(mvm.KindCanceled, "client reads no more: %w", err)
	}
	return nil
}

// Close ends the WebSocket and waits for all that it started.
func (t *Texts) Close() { t.conn.End(lastWords) }
