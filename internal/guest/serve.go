package guest

import (
	"bufio"
	"context"
	"io"
	"net"
	"sync"
	"time"

	"mvm"
	"mvm/internal/guestproto"
)

// Bounds of the server of port 52.
const (
	maxConns     = 64
	idleTimeout  = 5 * time.Minute  // from one request to the next on a connection
	writeTimeout = 30 * time.Second // for the host to take an answer
	maxDrain     = time.Hour
)

// Accepter gives the connections that the host opens to port 52. Accept fails when
// there will be no more.
type Accepter interface {
	Accept() (net.Conn, error)
}

// Serve answers the host's requests until Accept fails or ctx ends, and returns
// when every connection is done. The caller makes Accept fail when ctx ends.
func (a *Agent) Serve(ctx context.Context, l Accepter) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		select {
		case a.conns <- struct{}{}:
		default:
			a.log.Warn("too many connections from the host", "limit", maxConns)
			conn.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-a.conns }()
			a.serveConn(ctx, conn)
		})
	}
}

// hostConn is one connection from the host. Its reads are buffered, so that a
// hang-up can be seen while a request is worked on.
type hostConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *hostConn) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *hostConn) send(resp guestproto.Response) error {
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	return guestproto.Send(c, resp)
}

// serveConn answers one connection's requests in turn.
func (a *Agent) serveConn(ctx context.Context, raw net.Conn) {
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	conn := &hostConn{raw, bufio.NewReaderSize(raw, 4096)}
	for {
		if err := conn.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil {
			return
		}
		frame, err := guestproto.ReadFrame(conn)
		arrived := time.Now()
		if mvm.IsKind(err, mvm.KindInvalid) {
			_ = conn.send(errorResponse(err))
			return
		}
		if err != nil {
			return
		}
		var req guestproto.Request
		if err := guestproto.Decode(frame, &req); err != nil {
			if conn.send(errorResponse(err)) != nil {
				return
			}
			continue
		}
		if again := a.serveRequest(ctx, conn, req, arrived); !again {
			return
		}
	}
}

// serveRequest answers one request and reports whether the connection goes on.
func (a *Agent) serveRequest(ctx context.Context, conn *hostConn, req guestproto.Request, arrived time.Time) bool {
	if id := req.ID(); id != "" {
		a.log.Info("host asks", "what", guestproto.Variant(req), "request", id)
	}
	switch {
	case req.Exec != nil:
		a.serveExec(ctx, conn, *req.Exec)
		return false
	case req.Copy != nil:
		a.serveCopy(ctx, conn, *req.Copy)
		return false
	case req.Logs != nil:
		a.serveLogs(ctx, conn, *req.Logs)
		return false
	case req.Shutdown != nil:
		a.serveShutdown(conn, *req.Shutdown)
		return false
	}
	if c := req.Configure; c != nil {
		resp, err := a.answerConfigure(ctx, *c, arrived)
		sendErr := conn.send(resp)
		a.afterConfigure(*c, err, time.Since(arrived))
		return sendErr == nil
	}
	watched, release := watch(ctx, conn)
	resp := a.answer(watched, req, arrived)
	release()
	return conn.send(resp) == nil
}

// watch returns a context that ends when the host hangs up. release ends the
// watching; the connection can then be read again, and nothing is lost.
func watch(ctx context.Context, conn *hostConn) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	_ = conn.SetReadDeadline(time.Time{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := conn.r.Peek(1); err != nil {
			cancel()
		}
	}()
	return ctx, func() {
		_ = conn.SetReadDeadline(time.Unix(1, 0))
		<-done
		cancel()
	}
}

// serveShutdown answers, waits a moment until the host has the answer, and lets
// the owner of the agent know.
func (a *Agent) serveShutdown(conn *hostConn, s guestproto.Shutdown) {
	grace := min(time.Duration(max(s.GraceSecs, 0))*time.Second, maxDrain)
	first := a.ending.CompareAndSwap(false, true)
	if err := conn.send(guestproto.Response{ShutdownAck: ack(nil)}); err == nil {
		_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, _ = io.Copy(io.Discard, conn)
	}
	if first {
		a.shutdown <- grace
	}
}
