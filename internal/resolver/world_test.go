package resolver_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"

	"mvm/internal/egress"
	"mvm/internal/network"
	"mvm/internal/resolver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a resolver whose tenant's gateway address is on loopback, with an upstream that
// answers as the test says. Its guest asks from 127.9.0.3, and its neighbour from 127.9.0.4.
type world struct {
	t   *testing.T
	r   *resolver.Resolver
	up  *server
	cfg network.Config

	mu       sync.Mutex
	udp, tcp string // where the resolver listens
	taken    error
	admitted map[string]map[netip.Addr]network.Admission
	calls    int
	stalls   chan struct{} // Admit waits for it
	fails    error         // of Admit
	counts   map[string]int
}

var (
	guestIP   = netip.MustParseAddr("127.9.0.3")
	neighbour = netip.MustParseAddr("127.9.0.4")
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newWorld has a guest with the egress, and a neighbour without any.
func newWorld(t *testing.T, list ...string) *world {
	t.Helper()
	w := &world{t: t, up: newServer(t), admitted: map[string]map[netip.Addr]network.Admission{}, counts: map[string]int{}}
	// A subnet on loopback would be no tenant's: Validate refuses it, and the resolver only looks.
	w.cfg = network.Config{Tenants: []network.Tenant{{ID: "acme", Subnet: netip.MustParsePrefix("127.9.0.0/24"), Closed: true,
		Instances: []network.Instance{{ID: "i-00000003", Offset: 3}, {ID: "i-00000004", Offset: 4}}}}}
	w.r = resolver.New(resolver.Options{Network: w, Upstream: func() []netip.AddrPort { return []netip.AddrPort{w.up.at} },
		HostAddrs: func() []netip.Addr {
			return []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2606:4700::99")}
		},
		Count: func(result string) { w.mu.Lock(); w.counts[result]++; w.mu.Unlock() }, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(w.r.Close)
	w.egress(list...)
	return w
}

// egress gives the guest another egress.
func (w *world) egress(list ...string) {
	w.t.Helper()
	all, err := egress.ParseAll(list)
	must(w.t, err)
	tenant := &w.cfg.Tenants[0]
	tenant.Egress, tenant.Instances[0].Egress = nil, 0
	if len(all) > 0 {
		tenant.Egress, tenant.Instances[0].Egress = [][]egress.Destination{all}, 1
	}
	w.r.Follow(w.cfg)
	w.r.Applied(w.t.Context())
}

// OpenResolver implements network.Names.
func (w *world) OpenResolver(context.Context, string) (udp, tcp *os.File, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.taken != nil {
		return nil, nil, w.taken
	}
	u, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 9, 0, 1)})
	must(w.t, err)
	defer u.Close()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 9, 0, 1)})
	must(w.t, err)
	defer l.Close()
	w.udp, w.tcp = u.LocalAddr().String(), l.Addr().String()
	if udp, err = u.File(); err == nil {
		tcp, err = l.File()
	}
	return udp, tcp, err
}

// Admit implements network.Names.
func (w *world) Admit(ctx context.Context, _, instance string, list []network.Admission) error {
	if err := network.CheckAdmissions(list); err != nil {
		return err
	}
	w.mu.Lock()
	stalls := w.stalls
	w.mu.Unlock()
	if stalls != nil {
		select {
		case <-stalls:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fails != nil {
		return w.fails
	}
	w.calls++
	if w.admitted[instance] == nil {
		w.admitted[instance] = map[netip.Addr]network.Admission{}
	}
	for _, a := range list {
		w.admitted[instance][a.Address] = a
	}
	return nil
}

// open are the addresses that were opened for the guest, sorted, and for how long each.
func (w *world) open() (addrs []string, by map[netip.Addr]network.Admission, calls int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	by = maps.Clone(w.admitted["i-00000003"])
	for a := range by {
		addrs = append(addrs, a.String())
	}
	slices.Sort(addrs)
	return addrs, by, w.calls
}

func (w *world) count(result string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts[result]
}

// counted waits until so many questions ended so.
func (w *world) counted(result string, n int) {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); w.count(result) < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%d questions are %s after a minute, want %d", w.count(result), result, n)
		}
	}
}

// dial is a connection from the address.
func (w *world) dial(network string, from netip.Addr) net.Conn {
	w.t.Helper()
	w.mu.Lock()
	to := w.udp
	if network == "tcp" {
		to = w.tcp
	}
	w.mu.Unlock()
	local := net.Addr(&net.UDPAddr{IP: from.AsSlice()})
	if network == "tcp" {
		local = &net.TCPAddr{IP: from.AsSlice()}
	}
	c, err := (&net.Dialer{LocalAddr: local}).Dial(network, to)
	must(w.t, err)
	must(w.t, c.SetDeadline(time.Now().Add(time.Minute)))
	return c
}

func question(name string, of dnsmessage.Type) dnsmessage.Question {
	return dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: of, Class: dnsmessage.ClassINET}
}

// asking is a question as a guest's libc has it, with EDNS.
func asking(id uint16, q dnsmessage.Question) []byte {
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: id, RecursionDesired: true}, Questions: []dnsmessage.Question{q}}
	var h dnsmessage.ResourceHeader
	_ = h.SetEDNS0(4096, 0, false)
	m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// ask is the answer to the guest by UDP.
func (w *world) ask(name string, of dnsmessage.Type) dnsmessage.Message {
	w.t.Helper()
	c := w.dial("udp", guestIP)
	defer c.Close()
	_, err := c.Write(asking(77, question(name, of)))
	must(w.t, err)
	b := make([]byte, 65536)
	n, err := c.Read(b)
	must(w.t, err)
	return w.read(b[:n], 77)
}

func (w *world) read(b []byte, id uint16) dnsmessage.Message {
	w.t.Helper()
	var m dnsmessage.Message
	must(w.t, m.Unpack(b))
	if m.ID != id || !m.Response {
		w.t.Fatalf("this is no answer to %d: %+v", id, m)
	}
	return m
}

// askTCP sends a message over the connection and reads the answer.
func (w *world) askTCP(c net.Conn, b []byte) ([]byte, error) {
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)); err != nil {
		return nil, err
	}
	var head [2]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return nil, err
	}
	out := make([]byte, binary.BigEndian.Uint16(head[:]))
	_, err := io.ReadFull(c, out)
	return out, err
}

// extra is the code of the Extended DNS Error; 0: there is none.
func extra(m dnsmessage.Message) uint16 {
	for _, a := range m.Additionals {
		if opt, ok := a.Body.(*dnsmessage.OPTResource); ok {
			for _, o := range opt.Options {
				if o.Code == 15 {
					return binary.BigEndian.Uint16(o.Data)
				}
			}
		}
	}
	return 0
}

// answered are the addresses of an answer's A and AAAA records.
func answered(m dnsmessage.Message) (out []string) {
	for _, a := range m.Answers {
		switch v := a.Body.(type) {
		case *dnsmessage.AResource:
			out = append(out, netip.AddrFrom4(v.A).String())
		case *dnsmessage.AAAAResource:
			out = append(out, netip.AddrFrom16(v.AAAA).String())
		}
	}
	return out
}

// server is an upstream. It answers each question as the test says; nil: with nothing at all.
type server struct {
	at     netip.AddrPort
	mu     sync.Mutex
	answer func(m dnsmessage.Message, tcp bool) [][]byte
	asked  []dnsmessage.Message
}

func newServer(t *testing.T) *server {
	var u *net.UDPConn
	var l net.Listener
	for range 20 { // until a port is free for both
		var err error
		l, err = net.Listen("tcp4", "127.0.0.1:0")
		must(t, err)
		at := l.Addr().(*net.TCPAddr)
		if u, err = net.ListenUDP("udp4", &net.UDPAddr{IP: at.IP, Port: at.Port}); err == nil {
			break
		}
		l.Close()
	}
	s := &server{at: netip.MustParseAddrPort(l.Addr().String())}
	var serving sync.WaitGroup
	t.Cleanup(func() { u.Close(); l.Close(); serving.Wait() })
	serving.Go(func() {
		b := make([]byte, 4096)
		for n, from, err := u.ReadFromUDPAddrPort(b); !errors.Is(err, net.ErrClosed); n, from, err = u.ReadFromUDPAddrPort(b) {
			for _, out := range s.answers(b[:n], false) {
				_, _ = u.WriteToUDPAddrPort(out, from)
			}
		}
	})
	serving.Go(func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			var head [2]byte
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			if _, err := io.ReadFull(c, head[:]); err == nil {
				b := make([]byte, binary.BigEndian.Uint16(head[:]))
				if _, err := io.ReadFull(c, b); err == nil {
					for _, out := range s.answers(b, true) {
						_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
					}
				}
			}
			c.Close()
		}
	})
	return s
}

func (s *server) answers(b []byte, tcp bool) [][]byte {
	var m dnsmessage.Message
	if m.Unpack(b) != nil {
		return nil
	}
	s.mu.Lock()
	s.asked = append(s.asked, m)
	answer := s.answer
	s.mu.Unlock()
	if answer == nil {
		return nil
	}
	return answer(m, tcp)
}

func (s *server) says(answer func(m dnsmessage.Message, tcp bool) [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *server) questions() []dnsmessage.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func packed(m dnsmessage.Message) []byte {
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// record is one of an answer.
func record(name string, ttl uint32, body dnsmessage.ResourceBody) dnsmessage.Resource {
	return dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: dnsmessage.ClassINET, TTL: ttl}, Body: body}
}

func address(name string, ttl uint32, to string) dnsmessage.Resource {
	a := netip.MustParseAddr(to)
	if a.Is4() {
		return record(name, ttl, &dnsmessage.AResource{A: a.As4()})
	}
	return record(name, ttl, &dnsmessage.AAAAResource{AAAA: a.As16()})
}

func alias(name, to string) dnsmessage.Resource {
	return record(name, 60, &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(to)})
}

// with answers with the records, and nothing is wrong with it.
func with(records ...dnsmessage.Resource) func(dnsmessage.Message, bool) [][]byte {
	return func(m dnsmessage.Message, _ bool) [][]byte {
		m.Response, m.Answers, m.Additionals = true, records, nil
		return [][]byte{packed(m)}
	}
}
