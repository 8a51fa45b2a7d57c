package channel_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/channel"
	"mvm/internal/guestproto/mux"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// rig is a channel with a guest behind a character device that takes one client
// after the other and whose guest side lives on.
type rig struct {
	dir     string
	chardev string
	guest   net.Conn // of the guest's Server
	srv     *mux.Server
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "chan") // short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{dir: dir, chardev: filepath.Join(dir, "chardev")}
	var queue net.Conn
	r.guest, queue = net.Pipe()
	l, err := net.Listen("unix", r.chardev)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		serveChardev(l, queue)
	}()
	r.srv = mux.NewServer(r.guest)
	t.Cleanup(func() {
		l.Close()
		queue.Close()
		r.srv.Close()
		<-done
		os.RemoveAll(dir)
	})
	return r
}

func serveChardev(l net.Listener, queue net.Conn) {
	current := make(chan net.Conn, 1)
	drained := make(chan struct{})
	go func() { // what the guest writes; lost without a client
		defer close(drained)
		var to net.Conn
		buf := make([]byte, 4096)
		for {
			n, err := queue.Read(buf)
			if err != nil {
				return
			}
			select {
			case to = <-current:
			default:
			}
			if to != nil {
				to.Write(buf[:n])
			}
		}
	}()
	for {
		conn, err := l.Accept()
		if err != nil {
			<-drained
			return
		}
		select {
		case <-current:
		default:
		}
		current <- conn
		io.Copy(struct{ io.Writer }{queue}, conn)
		conn.Close()
	}
}

// serve answers sessions: a stream to port 52 echoes, 9 sends a line and closes
// its side, others are closed. Each new session is also sent to the channel.
func (r *rig) serve(t *testing.T) <-chan *mux.Session {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, done := make(chan *mux.Session, 100), make(chan struct{})
	go func() {
		defer close(done)
		for {
			s, err := r.srv.Accept(ctx)
			if err != nil {
				return
			}
			out <- s
			go func() {
				for {
					conn, port, err := s.Accept()
					if err != nil {
						return
					}
					go func() {
						defer conn.Close()
						if port == 52 {
							io.Copy(conn, conn)
						}
					}()
				}
			}()
		}
	}()
	t.Cleanup(func() { cancel(); r.srv.Close(); <-done })
	return out
}

func (r *rig) open(t *testing.T) *channel.Channel {
	t.Helper()
	c, err := channel.Open(channel.Options{Chardev: r.chardev, RunDir: r.dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func echo(conn net.Conn, msg []byte) error {
	conn.SetDeadline(time.Now().Add(time.Minute))
	go conn.Write(msg)
	got := make([]byte, len(msg))
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if !bytes.Equal(got, msg) {
		return fmt.Errorf("echo differs")
	}
	return nil
}

func TestDialAndReconnect(t *testing.T) {
	r := newRig(t)
	r.serve(t)
	for i := range 20 { // an agent after the other
		c := r.open(t)
		conn, err := c.Dial(deadline(t), 52)
		if err != nil {
			t.Fatalf("agent %d: %v", i, err)
		}
		msg := make([]byte, 70_000)
		rand.Read(msg)
		if err := echo(conn, msg); err != nil {
			t.Fatalf("agent %d: %v", i, err)
		}
		conn.Write(msg[:100]) // leave something under way
		c.Close()
		if _, err := c.Dial(deadline(t), 52); !mvm.IsKind(err, mvm.KindUnavailable) {
			t.Fatalf("dial a closed channel: %v, want unavailable", err)
		}
	}
}

func TestGuestAgentRestarts(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(context.Background())
	first := make(chan *mux.Session, 1)
	go func() {
		if s, err := r.srv.Accept(ctx); err == nil {
			first <- s
		}
	}()
	c := r.open(t)
	if _, err := c.Dial(deadline(t), 52); err != nil {
		t.Fatal(err)
	}
	(<-first).Close() // the process dies
	cancel()
	r.srv = mux.NewServer(r.guest)
	r.serve(t)
	for {
		conn, err := c.Dial(deadline(t), 52)
		if err != nil {
			t.Fatal(err)
		}
		if echo(conn, []byte("hello again")) == nil {
			return
		}
	}
}

func TestLocalSocket(t *testing.T) {
	r := newRig(t)
	r.serve(t)
	// What a dead agent left is replaced.
	if err := os.WriteFile(filepath.Join(r.dir, "v.sock"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c := r.open(t)
	path := filepath.Join(r.dir, "v.sock")
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("v.sock: %v, %v; want 0600", st.Mode(), err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The client does not wait for OK before it sends.
	fmt.Fprintf(conn, "CONNECT 52\nearly")
	br := bufio.NewReader(conn)
	if line, err := br.ReadString('\n'); err != nil || !strings.HasPrefix(line, "OK ") {
		t.Fatalf("got %q, %v; want OK", line, err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(br, got); err != nil || string(got) != "early" {
		t.Fatalf("got %q, %v; want early", got, err)
	}
	conn.(*net.UnixConn).CloseWrite()
	if rest, err := io.ReadAll(br); err != nil || len(rest) != 0 {
		t.Fatalf("after half-close: %q, %v; want the end", rest, err)
	}
	c.Close()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("v.sock after Close: %v, want it gone", err)
	}
}

func TestLocalSocketRefuses(t *testing.T) {
	r := newRig(t)
	r.serve(t)
	r.open(t)
	for _, line := range []string{"\n", "CONNECT\n", "CONNECT x\n", "CONNECT -1\n", "CONNECT 4294967296\n",
		"GET / HTTP/1.1\r\n\r\n", strings.Repeat("x", 100), "connect 52\n"} {
		conn, err := net.Dial("unix", filepath.Join(r.dir, "v.sock"))
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(time.Minute))
		conn.Write([]byte(line))
		if got, _ := io.ReadAll(conn); len(got) != 0 {
			t.Errorf("%q: got %q, want nothing", line, got)
		}
		conn.Close()
	}
}

func TestLocalSocketIsBounded(t *testing.T) {
	r := newRig(t)
	r.open(t) // no guest serves: every CONNECT waits
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range channel.MaxLocal + 1 {
		conn, err := net.Dial("unix", filepath.Join(r.dir, "v.sock"))
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		fmt.Fprint(conn, "CONNECT 52\n")
	}
	last := conns[channel.MaxLocal]
	last.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := last.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !strings.Contains(fmt.Sprint(err), "reset") {
		t.Errorf("the connection above the bound: %v, want it closed", err)
	}
}

func TestGuestToHost(t *testing.T) {
	r := newRig(t)
	sessions := r.serve(t)
	l, err := net.Listen("unix", filepath.Join(r.dir, "v.sock_53"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r.open(t)
	s := <-sessions
	served := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, err = io.Copy(conn, conn) // until the guest's half-close
			conn.Close()
		}
		served <- err
	}()
	conn, err := s.Open(deadline(t), 53)
	if err != nil {
		t.Fatal(err)
	}
	if err := echo(conn, []byte("wake me")); err != nil {
		t.Fatal(err)
	}
	conn.(*mux.Stream).CloseWrite()
	if rest, err := io.ReadAll(conn); err != nil || len(rest) != 0 {
		t.Fatalf("got %q, %v; want the end", rest, err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	// A port without a socket is refused, and nothing can climb out of RunDir.
	for _, port := range []uint32{54, 0, 1<<32 - 1} {
		conn, err := s.Open(deadline(t), port)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(time.Minute))
		if n, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Errorf("port %d: read %d, %v; want the stream reset", port, n, err)
		}
	}
}

func TestGuestNeverAnswers(t *testing.T) {
	r := newRig(t)
	c := r.open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Dial(ctx, 52); !mvm.IsKind(err, mvm.KindUnavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
}

// The VMM is not there yet, then it is.
func TestVMMComesLater(t *testing.T) {
	r := newRig(t)
	r.serve(t)
	real := r.chardev
	r.chardev = filepath.Join(r.dir, "later")
	c := r.open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Dial(ctx, 52); err == nil {
		t.Fatal("dialled a VMM that is not there")
	}
	if err := os.Rename(real, r.chardev); err != nil {
		t.Fatal(err)
	}
	conn, err := c.Dial(deadline(t), 52)
	if err != nil {
		t.Fatal(err)
	}
	if err := echo(conn, []byte("there")); err != nil {
		t.Fatal(err)
	}
}

// Whatever has been put into RunDir, a guest reaches the one port that this process
// serves for it, and nothing else; and the VMM that is dialled is the instance's.
func TestGuestReachesNoOtherSocket(t *testing.T) {
	r := newRig(t)
	sessions := r.serve(t)
	other, err := os.MkdirTemp("/tmp", "other")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(other) })
	l, err := net.Listen("unix", filepath.Join(other, "agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	done, reached := make(chan struct{}), make(chan struct{}, 100)
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			reached <- struct{}{}
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	r.open(t)
	s := <-sessions
	put := map[string]func(p string) error{
		"a link":      func(p string) error { return os.Symlink(l.Addr().String(), p) },
		"a hard link": func(p string) error { return os.Link(l.Addr().String(), p) },
		"a socket":    func(p string) error { return os.Rename(l.Addr().String(), p) }, // the last: it is moved
	}
	for _, what := range []string{"a link", "a hard link", "a socket"} {
		for _, port := range []uint32{53, 99} {
			if what == "a socket" && port == 53 {
				continue // it would be this process's own
			}
			path := filepath.Join(r.dir, fmt.Sprintf("v.sock_%d", port))
			if err := put[what](path); err != nil {
				t.Fatal(err)
			}
			conn, err := s.Open(deadline(t), port)
			if err != nil {
				t.Fatal(err)
			}
			conn.SetReadDeadline(time.Now().Add(time.Minute))
			if n, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
				t.Errorf("%s at port %d: read %d, %v; want the stream reset", what, port, n, err)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	select {
	case <-reached:
		t.Error("the guest reached a socket of the host")
	default:
	}
}

// A VMM's socket in whose place another was linked is not dialled.
func TestAnothersVMMIsNotDialled(t *testing.T) {
	other := newRig(t)
	other.serve(t)
	for what, put := range map[string]func(from, to string) error{"link": os.Symlink, "hard link": os.Link} {
		r := newRig(t)
		r.chardev = filepath.Join(r.dir, "planted")
		if err := put(other.chardev, r.chardev); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if c, err := r.open(t).Dial(ctx, 52); err == nil {
			c.Close()
			t.Errorf("%s: another guest was reached", what)
		}
		cancel()
		if err := os.Remove(r.chardev); err != nil {
			t.Fatal(err)
		}
	}
}
