package publish_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/publish"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

var anyPort = netip.MustParseAddrPort("127.0.0.1:0")

// gateway is a guest's port: it serves each connection after its header.
type gateway struct {
	l     net.Listener
	wg    sync.WaitGroup
	peers chan netip.AddrPort
}

func newGateway(t *testing.T, serve func(*net.TCPConn)) *gateway {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{l: l, peers: make(chan netip.AddrPort, 64)}
	g.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			g.wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				src, _, err := guestproto.ReadProxyHeader(c)
				if err != nil {
					t.Errorf("header: %v", err)
					return
				}
				g.peers <- src
				serve(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); g.wg.Wait() })
	return g
}

func (g *gateway) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", g.l.Addr().String())
}

func echo(c *net.TCPConn) { _, _ = io.Copy(c, c); _ = c.CloseWrite() }

func binding(g *gateway, guest int) publish.Binding {
	return publish.Binding{Tenant: "acme", Pool: "gateways", Dial: g.dial, Publish: mvm.Publish{Host: anyPort, Guest: guest}}
}

func newPublisher(t *testing.T, lim publish.Limits) *publish.Publisher {
	p := publish.New(publish.Options{Limits: lim})
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func apply(t *testing.T, p *publish.Publisher, bs ...publish.Binding) []netip.AddrPort {
	t.Helper()
	got, err := p.Apply(bs)
	if err != nil {
		t.Fatal(err)
	}
	addrs := make([]netip.AddrPort, len(got))
	for n, o := range got {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		addrs[n] = o.Addr
	}
	return addrs
}

func connect(t *testing.T, at netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func TestForwardsWithTheClientsAddress(t *testing.T) {
	g := newGateway(t, echo)
	p := newPublisher(t, publish.Limits{})
	at := apply(t, p, binding(g, 8080))[0]
	c := connect(t, at)
	sent := make([]byte, 3<<20)
	_, _ = rand.Read(sent)
	go func() { _, _ = c.Write(sent); _ = c.CloseWrite() }()
	got, err := io.ReadAll(c) // ends by the half-close that passed both ways
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("got %d bytes, %v; want the %d sent", len(got), err, len(sent))
	}
	if peer := <-g.peers; peer.String() != c.LocalAddr().String() {
		t.Errorf("the gateway was told %s, want %s", peer, c.LocalAddr())
	}
	eventually(t, "nothing is active", func() bool { return p.Active("acme", "gateways") == 0 })
}

func TestApplyIsIdempotent(t *testing.T) {
	g := newGateway(t, echo)
	p := newPublisher(t, publish.Limits{})
	first := apply(t, p, binding(g, 8080), binding(g, 8081))
	if first[0] == first[1] || first[0].Port() == 0 {
		t.Fatalf("got addresses %v", first)
	}
	c := connect(t, first[0])
	_, _ = c.Write([]byte("a"))
	<-g.peers
	again := apply(t, p, binding(g, 8081), binding(g, 8080))
	if again[0] != first[1] || again[1] != first[0] {
		t.Errorf("addresses changed from %v to %v", first, again)
	}
	buf := make([]byte, 1)
	if _, err := io.ReadFull(c, buf); err != nil || p.Active("acme", "gateways") == 0 {
		t.Errorf("the connection did not live on: %v", err)
	}
	apply(t, p, binding(g, 8081))
	if _, err := c.Read(buf); err == nil {
		t.Error("the connection of a binding that is gone lives on")
	}
	if _, err := net.Dial("tcp", first[0].String()); err == nil {
		t.Error("the address of a binding that is gone takes connections")
	}
	// It comes back where it was.
	back := binding(g, 8080)
	back.Bound = first[0]
	if got := apply(t, p, back)[0]; got != first[0] {
		t.Errorf("got %s, want the former %s", got, first[0])
	}
}

func TestOneAddressInUseDoesNotStopTheOthers(t *testing.T) {
	g := newGateway(t, echo)
	p := newPublisher(t, publish.Limits{})
	taken := binding(g, 1)
	taken.Publish.Host = netip.MustParseAddrPort(g.l.Addr().String())
	got, err := p.Apply([]publish.Binding{taken, binding(g, 2), binding(g, 2)})
	if err != nil {
		t.Fatal(err)
	}
	if !mvm.IsKind(got[0].Err, mvm.KindUnavailable) || got[1].Err != nil || !mvm.IsKind(got[2].Err, mvm.KindInvalid) {
		t.Errorf("got %v, want one unavailable, one served and one that is given twice", got)
	}
	if got[0].Addr.IsValid() || !got[1].Addr.IsValid() || got[2].Addr.IsValid() {
		t.Errorf("got addresses %v", got)
	}
	c := connect(t, got[1].Addr)
	_, _ = c.Write([]byte("x"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

// TestPortMovesToAnother: an address that one binding gives up is another's in the same
// call.
func TestPortMovesToAnother(t *testing.T) {
	g := newGateway(t, echo)
	p := newPublisher(t, publish.Limits{})
	first := binding(g, 1)
	at := apply(t, p, first)[0]
	second := binding(g, 2)
	second.Pool, second.Publish.Host = "other", at
	if got := apply(t, p, second)[0]; got != at {
		t.Errorf("the address is %v, want %v, which nobody has any more", got, at)
	}
}

func TestGatewayThatDoesNotAnswer(t *testing.T) {
	g := newGateway(t, echo)
	p := newPublisher(t, publish.Limits{Connect: 30 * time.Millisecond})
	broken, slow := binding(g, 1), binding(g, 2)
	broken.Dial = func(context.Context) (net.Conn, error) { return nil, errors.New("no gateway") }
	slow.Dial = func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
	for _, at := range apply(t, p, broken, slow) {
		c, err := net.Dial("tcp", at.String())
		if err == nil { // or the reset was there already
			_ = c.SetDeadline(time.Now().Add(patience))
			_, err = c.Read(make([]byte, 1))
			_ = c.Close()
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: got %v, want a reset", at, err)
		}
	}
	// The next Apply brings a Dial that works; the address stays.
	slow.Dial = g.dial
	c := connect(t, apply(t, p, broken, slow)[1])
	_, _ = c.Write([]byte("x"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	g := newGateway(t, echo)
	p := newPublisher(t, publish.Limits{ConnsPerBinding: 2})
	var most, now atomic.Int32
	b := binding(g, 1)
	b.Dial = func(ctx context.Context) (net.Conn, error) {
		most.Store(max(most.Load(), now.Add(1)))
		c, err := g.dial(ctx)
		if err != nil {
			return nil, err
		}
		return &counted{TCPConn: c.(*net.TCPConn), now: &now}, nil
	}
	at := apply(t, p, b)[0]
	var wg sync.WaitGroup
	for range 10 {
		c := connect(t, at)
		wg.Go(func() {
			_, _ = c.Write([]byte("x"))
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Error(err)
			}
			_ = c.Close()
		})
	}
	wg.Wait()
	if n := most.Load(); n > 2 {
		t.Errorf("%d connections at once, want at most 2", n)
	}
}

// counted counts itself out when it is closed.
type counted struct {
	*net.TCPConn
	now  *atomic.Int32
	once sync.Once
}

func (c *counted) Close() error {
	c.once.Do(func() { c.now.Add(-1) })
	return c.TCPConn.Close()
}

func TestCloseEndsEverything(t *testing.T) {
	g := newGateway(t, echo)
	p := newPublisher(t, publish.Limits{})
	hang := binding(g, 2)
	hang.Dial = func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
	addrs := apply(t, p, binding(g, 1), hang)
	open, pending := connect(t, addrs[0]), connect(t, addrs[1])
	<-g.peers
	eventually(t, "both are served", func() bool { return p.Active("acme", "gateways") >= 2 })
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{open, pending} {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a connection lives after Close")
		}
	}
	if _, err := p.Apply(nil); !mvm.IsKind(err, mvm.KindState) {
		t.Errorf("apply after close: %v", err)
	}
}
