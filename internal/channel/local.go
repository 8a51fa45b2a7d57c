package channel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"mvm/internal/guestproto"
	"mvm/internal/sys"
)

const (
	lineTimeout    = 5 * time.Second  // for the CONNECT line
	connectTimeout = 30 * time.Second // for the guest to answer it
	maxLine        = 32
)

// localServer is v.sock.
type localServer struct {
	dir string
	l   *net.UnixListener

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
	s := &localServer{dir: dir, conns: map[net.Conn]struct{}{}}
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
	_ = sys.InFolder(s.dir, func(d *sys.Folder) error { return d.Remove(localName) }) // the folder may be gone
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

func (c *Channel) serveLocal() {
	for {
		conn, err := c.local.l.Accept()
		if err != nil {
			return // closed
		}
		n, ok := c.local.add(conn)
		if !ok {
			conn.Close()
			continue
		}
		c.wg.Go(func() {
			defer c.local.remove(conn)
			defer conn.Close()
			if err := c.connect(conn, n); err != nil {
				c.opts.Log.Debug("guest channel connect", "error", err)
			}
		})
	}
}

// connect serves one connection of v.sock.
func (c *Channel) connect(conn net.Conn, n uint32) error {
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
	ctx, cancel := context.WithTimeout(c.ctx, connectTimeout)
	defer cancel()
	stream, err := c.Dial(ctx, port)
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
func (c *Channel) toHost(stream net.Conn, port uint32) {
	defer stream.Close()
	var conn *net.UnixConn
	err := errNoPort
	if port == hostPort {
		ctx, cancel := context.WithTimeout(c.ctx, lineTimeout)
		conn, err = dial(ctx, c.opts.RunDir, hostName, sys.Peer{Self: true})
		cancel()
	}
	if err != nil {
		c.opts.Log.Debug("guest opened a port that nobody serves", "port", port, "error", err)
		abort(stream)
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(c.ctx, func() { conn.Close() })
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
