package publish_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"

	"mvm/internal/publish"
)

// manager holds listeners as a service manager does, beyond the end of a process.
type manager struct {
	t    *testing.T
	mu   sync.Mutex
	held map[netip.AddrPort]*os.File
	deaf bool
}

func (m *manager) Keep(at netip.AddrPort, l *net.TCPListener) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := l.File()
	m.held[at] = f
	return err
}

func (m *manager) Forget(at netip.AddrPort) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.deaf {
		return errors.New("nobody listens")
	}
	f := m.held[at]
	delete(m.held, at)
	if f == nil {
		return errors.New("nothing is kept of " + at.String())
	}
	return f.Close()
}

// next is what the next process gets.
func (m *manager) next() *publish.Publisher {
	m.mu.Lock()
	defer m.mu.Unlock()
	opt := publish.Options{Keeper: m}
	for _, f := range m.held {
		l, err := net.FileListener(f)
		if err != nil {
			m.t.Fatal(err)
		}
		opt.Kept = append(opt.Kept, l.(*net.TCPListener))
	}
	p := publish.New(opt)
	m.t.Cleanup(func() { _ = p.Close() })
	return p
}

// A port whose listener somebody keeps takes connections while its process restarts, and
// those are served by the next. What is published no more is closed, before and after.
func TestKeptPortsStayOpen(t *testing.T) {
	g := newGateway(t, echo)
	m := &manager{t: t, held: map[netip.AddrPort]*os.File{}}
	t.Cleanup(func() {
		for _, f := range m.held {
			_ = f.Close()
		}
	})
	refused := func(what string, at netip.AddrPort) {
		t.Helper()
		if c, err := net.Dial("tcp", at.String()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: got %v, %v; want a refusal", what, c, err)
		}
	}
	everywhere := binding(g, 8083)
	everywhere.Publish.Host = netip.MustParseAddrPort("0.0.0.0:0")
	first := m.next()
	any, fixed, gone := binding(g, 8080), binding(g, 8081), binding(g, 8082)
	at := apply(t, first, any, fixed, gone)
	fixed.Publish.Host = at[1]
	at = apply(t, first, any, fixed, gone)
	apply(t, first, any, fixed)
	refused("published no more", at[2])
	m.deaf = true // and at first it can't be told
	at = apply(t, first, fixed, any, everywhere)
	apply(t, first, fixed, everywhere)
	m.deaf = false
	apply(t, first, fixed, everywhere)
	refused("published no more, told late", at[1])
	at[1] = at[2]
	_ = first.Close()

	var waiting []*net.TCPConn
	for _, a := range at[:2] {
		waiting = append(waiting, connect(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), a.Port()))) // nobody serves it now
	}
	second := m.next()
	everywhere.Bound = at[1]
	if got := apply(t, second, fixed, everywhere); got[0] != at[0] || got[1] != at[1] {
		t.Fatalf("after the restart the ports are %v, want %v", got, at[:2])
	}
	for _, c := range waiting {
		_, err := c.Write([]byte("hello"))
		_ = c.CloseWrite()
		got, rerr := io.ReadAll(c)
		if err != nil || rerr != nil || string(got) != "hello" {
			t.Errorf("who connected meanwhile got %q, %v, %v", got, err, rerr)
		}
	}
	_ = second.Close()

	third := m.next()
	apply(t, third, everywhere)
	refused("published no more by the third", at[0])
	if len(m.held) != 1 {
		t.Errorf("%d listeners are kept, want 1", len(m.held))
	}
}
