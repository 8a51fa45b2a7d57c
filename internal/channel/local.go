package channel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/sys"
)

const (
	lineTimeout    = 5 * time.Second  // for the CONNECT line
	connectTimeout = 30 * time.Second // for the guest to answer it
	maxLine        = 32
)

// localServer is v.sock, or another socket with a bound on its connections.
type localServer struct {
	dir, name string
	in        string // folder in dir that the socket is in; "": dir itself
	l         *net.UnixListener

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
	count  uint32
}

// localName is the socket's name in the run dir, hostPort the port of the host that
// guests may open, with the name of its socket.
const (
	localName = "v.sock"
	hostPort  = guestproto.HostPort
)

var hostName = fmt.Sprintf("v.sock_%d", hostPort)

// listenLocal makes the socket in the folder; one that a dead agent left is replaced.
func listenLocal(dir string) (*localServer, error) {
	s := &localServer{dir: dir, name: localName, conns: map[net.Conn]struct{}{}}
	err := sys.InFolder(dir, func(d *sys.Folder) (err error) {
		s.l, err = d.Listen(localName)
		return err
	})
	return s, err
}

// dial connects to a socket in the folder.
func dial(ctx context.Context, dir, name string, from sys.Peer) (conn *net.UnixConn, err error) {
	err = sys.InFolder(dir, func(d *sys.Folder) (err error) {
		conn, err = d.Dial(ctx, name, from)
		return err
	})
	return conn, err
}

// close stops the listener, ends its connections and removes the socket.
func (s *localServer) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	s.l.Close()
	_ = sys.InFolder(s.dir, func(d *sys.Folder) error { // the folder may be gone
		if s.in != "" {
			return d.InSub(s.in, func(sub *sys.Folder) error { return sub.Remove(s.name) })
		}
		return d.Remove(s.name)
	})
	for c := range s.conns {
		c.Close()
	}
}

// add counts a connection; false when there are too many or the server is closed.
func (s *localServer) add(c net.Conn) (n uint32, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.conns) >= MaxLocal {
		return 0, false
	}
	s.conns[c] = struct{}{}
	s.count++
	return s.count, true
}

func (s *localServer) remove(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// ends are what a guest channel has on its host, whatever it runs over: v.sock for who
// wants the guest, and the way from the guest to v.sock_53.
type ends struct {
	runDir string
	log    *slog.Logger
	dial   func(ctx context.Context, port uint32) (net.Conn, error)

	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	local  *localServer
}

// openEnds listens on v.sock; start begins to serve it.
func openEnds(runDir string, log *slog.Logger, dial func(context.Context, uint32) (net.Conn, error)) (*ends, error) {
	e := &ends{runDir: runDir, log: log, dial: dial}
	e.ctx, e.cancel = context.WithCancelCause(context.Background())
	var err error
	if e.local, err = listenLocal(runDir); err != nil {
		e.cancel(err)
		return nil, mvm.Errorf(mvm.KindInternal, "open the guest channel: %w", err)
	}
	return e, nil
}

// start serves v.sock.
func (e *ends) start() { e.wg.Go(e.serveLocal) }

// stop has all that was started end; wg.Wait waits for it.
func (e *ends) stop() {
	e.cancel(errClosed)
	e.local.close()
}

var errClosed = mvm.Errorf(mvm.KindUnavailable, "the guest channel was closed")

func (e *ends) serveLocal() {
	e.accept(e.local, "guest channel connect", e.connect)
}

// accept serves each connection of the server in a goroutine of its own.
func (e *ends) accept(s *localServer, what string, serve func(conn net.Conn, n uint32) error) {
	for {
		conn, err := s.l.Accept()
		if err != nil {
			return // closed
		}
		n, ok := s.add(conn)
		if !ok {
			conn.Close()
			continue
		}
		e.wg.Go(func() {
			defer s.remove(conn)
			defer conn.Close()
			if err := serve(conn, n); err != nil {
				e.log.Debug(what, "error", err)
			}
		})
	}
}

// connect serves one connection of v.sock.
func (e *ends) connect(conn net.Conn, n uint32) error {
	conn.SetDeadline(time.Now().Add(lineTimeout))
	r := bufio.NewReaderSize(io.LimitReader(conn, maxLine), maxLine)
	line, err := r.ReadString('\n')
	if err != nil {
		return fmt.Errorf("read the CONNECT line: %w", err)
	}
	port, err := parseConnect(line)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(e.ctx, connectTimeout)
	defer cancel()
	stream, err := e.dial(ctx, port)
	if err != nil {
		return err
	}
	defer stream.Close()
	if _, err := fmt.Fprintf(conn, "OK %d\n", n); err != nil {
		return err
	}
	conn.SetDeadline(time.Time{})
	early, _ := r.Peek(r.Buffered()) // a client may send before it has read OK
	if _, err := stream.Write(early); err != nil {
		return err
	}
	join(conn, stream)
	return nil
}

// parseConnect reads "CONNECT <port>\n".
func parseConnect(line string) (uint32, error) {
	num, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "CONNECT ")
	port, err := strconv.ParseUint(num, 10, 32)
	if !ok || err != nil {
		return 0, fmt.Errorf("parse %q: want CONNECT <port>", line)
	}
	return uint32(port), nil
}

// toHost passes a stream that the guest opened to the host's one port, on which this
// process itself listens.
func (e *ends) toHost(stream net.Conn, port uint32) {
	defer stream.Close()
	var conn *net.UnixConn
	err := errNoPort
	if port == hostPort {
		ctx, cancel := context.WithTimeout(e.ctx, lineTimeout)
		conn, err = dial(ctx, e.runDir, hostName, sys.Peer{Self: true})
		cancel()
	}
	if err != nil {
		e.log.Debug("guest opened a port that nobody serves", "port", port, "error", err)
		abort(stream)
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(e.ctx, func() { conn.Close() })
	defer stop()
	join(conn, stream)
}

var errNoPort = errors.New("the host has no such port for guests")

// join copies both ways until both are done; the end of one direction is passed
// on, an error in one ends both.
func join(a, b net.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() { copyHalf(a, b) })
	copyHalf(b, a)
	wg.Wait()
}

func copyHalf(dst, src net.Conn) {
	// Hide ReadFrom and WriteTo: a plain bounded buffer is all that is wanted.
	_, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, make([]byte, 32<<10))
	if half, ok := dst.(interface{ CloseWrite() error }); ok && err == nil {
		_ = half.CloseWrite()
		return
	}
	abort(dst)
	abort(src)
}

// abort ends a stream in both directions.
func abort(c net.Conn) {
	if r, ok := c.(interface{ Reset() error }); ok {
		_ = r.Reset()
		return
	}
	c.Close()
}
