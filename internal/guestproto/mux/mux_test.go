package mux_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/guestproto/mux"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// wire is a raw stream whose host end can be replaced, as a chardev's can: the
// guest's end lives on, and bytes in between may be lost at any point.
type wire struct {
	guest, host net.Conn
}

// pair returns two connected unix sockets, with buffers as a chardev has.
func pair(t *testing.T) wire {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	host, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	guest, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close(); guest.Close() })
	return wire{guest, host}
}

// echoGuest serves sessions on srv: a stream to port 52 echoes, others are closed.
func echoGuest(t *testing.T, srv *mux.Server) (sessions <-chan *mux.Session) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, done := make(chan *mux.Session, 1000), make(chan struct{})
	go func() {
		defer close(done)
		for {
			s, err := srv.Accept(ctx)
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
	t.Cleanup(func() { cancel(); srv.Close(); <-done })
	return out
}

func echo(ctx context.Context, s *mux.Session, msg []byte) error {
	conn, err := s.Open(ctx, 52)
	if err != nil {
		return err
	}
	defer conn.Close()
	d, _ := ctx.Deadline()
	conn.SetDeadline(d)
	werr := make(chan error, 1)
	go func() {
		_, err := conn.Write(msg)
		werr <- err
	}()
	got := make([]byte, len(msg))
	if _, err := io.ReadFull(conn, got); err != nil {
		return fmt.Errorf("read the echo: %w", err)
	}
	if !bytes.Equal(got, msg) {
		return errors.New("the echo differs")
	}
	return <-werr
}

func TestEitherSideFirst(t *testing.T) {
	for _, first := range []string{"host", "guest"} {
		for _, kind := range []string{"pipe", "socket"} {
			t.Run(first+" first over "+kind, func(t *testing.T) {
				w := pair(t)
				if kind == "pipe" {
					w.guest, w.host = net.Pipe()
				}
				srv := mux.NewServer(w.guest)
				host := make(chan *mux.Session, 1)
				client := func() {
					s, err := mux.Client(deadline(t), w.host)
					if err != nil {
						t.Error(err)
					}
					host <- s
				}
				if first == "host" {
					go client()
				}
				sessions := echoGuest(t, srv)
				if first == "guest" {
					go client()
				}
				s := <-host
				if s == nil {
					t.FailNow()
				}
				defer s.Close()
				if err := echo(deadline(t), s, []byte("hello")); err != nil {
					t.Fatal(err)
				}
				// And a stream from the guest to the host.
				conn, err := (<-sessions).Open(deadline(t), 53)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if _, port, err := s.Accept(); err != nil || port != 53 {
					t.Fatalf("port %d, %v; want 53", port, err)
				}
			})
		}
	}
}

// Data that is full of the link's own marks and records arrives as it was.
func TestDataIsTransparent(t *testing.T) {
	w := pair(t)
	echoGuest(t, mux.NewServer(w.guest))
	s, err := mux.Client(deadline(t), w.host)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	random := make([]byte, 3<<20)
	rand.Read(random)
	record := append([]byte{0xC5, 0x01, 'O', '1'}, bytes.Repeat([]byte("a"), 32)...)
	for name, msg := range map[string][]byte{
		"marks":   bytes.Repeat([]byte{0xC5}, 200_000),
		"pairs":   bytes.Repeat([]byte{0xC5, 0x00, 0xC5, 0x01, 0xC5}, 50_000),
		"records": bytes.Repeat(record, 5_000),
		"random":  random,
	} {
		if err := echo(deadline(t), s, msg); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The host goes away at any byte of anything, 500 times, and comes back.
func TestReconnect(t *testing.T) {
	w := pair(t)
	sock := filepath.Join(t.TempDir(), "chardev")
	bridge := newChardev(t, sock, w.host)
	echoGuest(t, mux.NewServer(w.guest))
	msg := make([]byte, 100_000)
	rand.Read(msg)
	for i := range 500 {
		conn, err := net.Dial("unix", sock)
		if err != nil {
			t.Fatal(err)
		}
		ctx := deadline(t)
		s, err := mux.Client(ctx, conn)
		if err != nil {
			t.Fatalf("connect %d: %v", i, err)
		}
		if i%50 == 0 {
			if err := echo(ctx, s, msg); err != nil {
				t.Fatalf("connect %d: %v", i, err)
			}
		}
		if st, err := s.Open(ctx, 52); err == nil { // leave a half-written frame both ways
			st.SetDeadline(time.Now().Add(time.Duration(i%7) * time.Millisecond))
			go io.Copy(io.Discard, st)
			st.Write(msg)
		}
		s.Close()
		bridge.waitGone()
	}
}

// chardev passes bytes between a unix socket's one client and the guest's queue,
// and drops what is on its way when the client leaves, as QEMU does.
type chardev struct {
	l    net.Listener
	gone chan struct{}
}

func newChardev(t *testing.T, path string, queue net.Conn) *chardev {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c := &chardev{l: l, gone: make(chan struct{}, 1)}
	cur, done := make(chan net.Conn, 1), make(chan struct{})
	go func() { // from the guest; with no client the bytes are lost
		defer close(done)
		var to net.Conn
		buf := make([]byte, 1000)
		for {
			n, err := queue.Read(buf)
			if err != nil {
				return
			}
			select {
			case to = <-cur:
			default:
			}
			if to != nil {
				to.Write(buf[:n])
			}
		}
	}()
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			select {
			case <-cur:
			default:
			}
			cur <- conn
			io.CopyBuffer(struct{ io.Writer }{queue}, struct{ io.Reader }{conn}, make([]byte, 777))
			conn.Close()
			c.gone <- struct{}{}
		}
	}()
	t.Cleanup(func() { l.Close(); queue.Close(); <-served; <-done })
	return c
}

func (c *chardev) waitGone() { <-c.gone }

// A snapshot restored: the guest has a live session and half a frame in its
// reader, and a new host connects without the guest ever seeing the old one go.
func TestNewHostOverLiveSession(t *testing.T) {
	w := pair(t)
	sessions := echoGuest(t, mux.NewServer(w.guest))
	s, err := mux.Client(deadline(t), keepOpen{w.host})
	if err != nil {
		t.Fatal(err)
	}
	old := <-sessions
	stream, err := old.Open(deadline(t), 53)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	w.host.SetDeadline(time.Time{})
	// A data frame of the old session that claims 30000 bytes and has 3.
	w.host.Write([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0x75, 0x30, 'a', 'b', 'c'})
	w.host.Write([]byte{0xC5})                        // half a literal
	w.host.Write([]byte{0xC5, 0x01, 'O', '1', 'a'})   // half a record
	w.host.Write(append([]byte{0xC5, 0x01, 'X', '1'}, // and one that makes no sense
		bytes.Repeat([]byte("z"), 32)...))
	s2, err := mux.Client(deadline(t), w.host)
	if err != nil {
		t.Fatal(err)
	}
	defer s2.Close()
	if err := echo(deadline(t), s2, []byte("after the restore")); err != nil {
		t.Fatal(err)
	}
	<-old.Done()
	if _, err := stream.Write([]byte("x")); err == nil {
		t.Error("a stream of the old session still takes data")
	}
}

// keepOpen is a connection whose Close only stops what is under way.
type keepOpen struct{ net.Conn }

func (k keepOpen) Close() error { return k.SetDeadline(time.Unix(1, 0)) }

// The guest agent restarts: the host's session ends, so that it connects anew.
func TestGuestRestart(t *testing.T) {
	w := pair(t)
	ctx, cancel := context.WithCancel(deadline(t))
	go func() {
		s, err := mux.NewServer(w.guest).Accept(ctx)
		if err != nil {
			t.Error(err)
			return
		}
		defer cancel()
		s.Accept()
		s.Close()
	}()
	s, err := mux.Client(deadline(t), w.host)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if conn, err := s.Open(deadline(t), 1); err != nil {
		t.Fatal(err)
	} else {
		defer conn.Close()
	}
	<-ctx.Done()
	echoGuest(t, mux.NewServer(w.guest)) // the new process
	select {
	case <-s.Done():
	case <-deadline(t).Done():
		t.Fatal("the host did not see that the guest agent restarted")
	}
}

func TestGarbageBeforePreface(t *testing.T) {
	garbage := make([]byte, 100_000)
	rand.Read(garbage)
	cases := map[string][]byte{
		"random":      garbage,
		"half record": {0xC5, 0x01, 'A', '1', '0'},
		"lone mark":   {0xC5},
		"stale records": append(append([]byte{0xC5, 0x01, 'A', '1'}, bytes.Repeat([]byte("0"), 32)...),
			append([]byte{0xC5, 0x01, 'O', '1'}, bytes.Repeat([]byte("0"), 32)...)...),
	}
	for name, junk := range cases {
		t.Run(name, func(t *testing.T) {
			w := pair(t)
			if _, err := w.guest.Write(junk); err != nil {
				t.Fatal(err)
			}
			if _, err := w.host.Write(junk); err != nil {
				t.Fatal(err)
			}
			echoGuest(t, mux.NewServer(w.guest))
			s, err := mux.Client(deadline(t), w.host)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := echo(deadline(t), s, []byte("through")); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A guest that never answers, or answers with a flood, costs a deadline.
func TestGuestNeverAnswers(t *testing.T) {
	for name, guest := range map[string]func(net.Conn){
		"silent": func(net.Conn) {},
		"flood": func(c net.Conn) {
			junk := bytes.Repeat([]byte{0xC5, 0x01, 'H', '1', '0'}, 1000)
			for {
				if _, err := c.Write(junk); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := pair(t)
			done := make(chan struct{})
			go func() { defer close(done); guest(w.guest) }()
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			_, err := mux.Client(ctx, w.host)
			if !mvm.IsKind(err, mvm.KindUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want unavailable because of the deadline", err)
			}
			<-done
		})
	}
}

// A guest that opens streams without end gets MaxIncoming, and the host lives.
func TestFloodOfStreams(t *testing.T) {
	w := pair(t)
	srv := mux.NewServer(w.guest)
	ctx, cancel := context.WithCancel(deadline(t))
	flood := make(chan struct{})
	go func() {
		defer close(flood)
		s, err := srv.Accept(ctx)
		if err != nil {
			return
		}
		defer s.Close()
		for {
			short, done := context.WithTimeout(ctx, 20*time.Millisecond)
			_, err := s.Open(short, 53)
			done()
			if err != nil && ctx.Err() != nil {
				return
			}
		}
	}()
	s, err := mux.Client(deadline(t), w.host)
	if err != nil {
		t.Fatal(err)
	}
	held := map[net.Conn]bool{}
	for len(held) < mux.MaxIncoming {
		conn, _, err := s.Accept()
		if err != nil {
			t.Fatal(err)
		}
		held[conn] = true
	}
	more := make(chan struct{})
	go func() {
		defer close(more)
		if _, _, err := s.Accept(); err == nil {
			t.Error("a stream above the bound was accepted")
		}
	}()
	time.Sleep(200 * time.Millisecond) // gives a wrong one the time to show itself
	for c := range held {
		c.SetReadDeadline(time.Now())
		break
	}
	cancel()
	<-flood
	s.Close()
	<-more
	srv.Close()
}

// While the guest is paused nothing times out; afterwards the session goes on.
func TestSilenceIsNoFailure(t *testing.T) {
	w := pair(t)
	srv := mux.NewServer(w.guest)
	paused := make(chan struct{})
	guest := make(chan error, 1)
	go func() {
		s, err := srv.Accept(context.Background())
		if err != nil {
			guest <- err
			return
		}
		conn, _, err := s.Accept()
		if err == nil {
			<-paused
			_, err = io.Copy(conn, io.LimitReader(conn, 4<<20))
			conn.Close()
		}
		guest <- err
	}()
	s, err := mux.Client(deadline(t), w.host)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := s.Open(deadline(t), 52)
	if err != nil {
		t.Fatal(err)
	}
	msg := make([]byte, 4<<20)
	rand.Read(msg)
	written := make(chan error, 1)
	go func() { _, err := conn.Write(msg); written <- err }()
	conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read while paused: %v, want a timeout", err)
	}
	conn.SetReadDeadline(time.Time{})
	close(paused)
	got := make([]byte, len(msg))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, msg) {
		t.Fatalf("after the pause: %v, equal %v", err, bytes.Equal(got, msg))
	}
	if err := errors.Join(<-written, <-guest); err != nil {
		t.Error(err)
	}
	s.Close()
	srv.Close()
}

// Polling a guest that has stopped reading costs each caller its deadline and
// nothing else: no Close hangs and nothing piles up without bound.
func TestPollingAHungGuest(t *testing.T) {
	w := pair(t)
	ctx := deadline(t)
	hung, release := make(chan struct{}), make(chan struct{})
	guest := &hangable{Conn: w.guest, hung: hung, release: release}
	echoGuest(t, mux.NewServer(guest))
	s, err := mux.Client(ctx, w.host)
	if err != nil {
		t.Fatal(err)
	}
	if err := echo(ctx, s, []byte("well")); err != nil {
		t.Fatal(err)
	}
	close(hung)
	before := runtime.NumGoroutine()
	for range 1000 {
		short, cancel := context.WithTimeout(ctx, time.Millisecond)
		conn, err := s.Open(short, 52)
		if err == nil {
			conn.SetDeadline(time.Now().Add(time.Millisecond))
			conn.Write([]byte("are you there?"))
			conn.Close()
		}
		cancel()
	}
	if n := runtime.NumGoroutine() - before; n > 2*mux.MaxIncoming {
		t.Errorf("%d goroutines more after polling", n)
	}
	close(release)
	for { // the guest refuses some while it works off what has piled up
		err := echo(ctx, s, []byte("well again"))
		if err == nil {
			break
		}
		if ctx.Err() != nil || s.Over() {
			t.Fatal(err)
		}
	}
	s.Close()
}

// hangable is a guest end that stops reading.
type hangable struct {
	net.Conn
	hung, release chan struct{}
}

func (h *hangable) Read(p []byte) (int, error) {
	select {
	case <-h.hung:
		<-h.release
	default:
	}
	return h.Conn.Read(p)
}

func BenchmarkThroughput(b *testing.B) {
	guest, host := net.Pipe()
	srv := mux.NewServer(guest)
	go func() {
		s, err := srv.Accept(context.Background())
		if err != nil {
			return
		}
		for {
			conn, _, err := s.Accept()
			if err != nil {
				return
			}
			io.Copy(io.Discard, conn)
		}
	}()
	s, err := mux.Client(context.Background(), host)
	if err != nil {
		b.Fatal(err)
	}
	conn, err := s.Open(context.Background(), 52)
	if err != nil {
		b.Fatal(err)
	}
	msg := make([]byte, 1<<20)
	rand.Read(msg)
	b.SetBytes(int64(len(msg)))
	for b.Loop() {
		if _, err := conn.Write(msg); err != nil {
			b.Fatal(err)
		}
	}
	s.Close()
	srv.Close()
}
