package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/guest/gateway"
	"mvm/internal/guestproto"
)

func TestMain(m *testing.M) {
	if what := os.Getenv(gatewayProcess); what != "" {
		serveGateway(what)
		return
	}
	goleak.VerifyTestMain(m)
}

// patience is how long tests wait for what must happen.
const patience = 20 * time.Second

// Addresses of the pretended tenant.
var (
	bridge = netip.MustParseAddr("127.0.0.9") // the host's, to which clients of the host bind
	ip3    = netip.MustParseAddr("10.240.5.3")
	ip4    = netip.MustParseAddr("10.240.5.4")
)

const (
	id3 = "i-00000003"
	id4 = "i-00000004"
)

// host is a scripted Host: it answers with what awake says, after gate is closed.
type host struct {
	mu       sync.Mutex
	acquires []guestproto.Acquire
	requests []string // ids of the acquires
	sources  []netip.Addr
	reports  []guestproto.Activity
	answer   func(ctx context.Context, a guestproto.Acquire) (guestproto.AcquireResult, error)
}

func (h *host) Acquire(ctx context.Context, a guestproto.Acquire) (guestproto.AcquireResult, error) {
	h.mu.Lock()
	h.requests = append(h.requests, a.RequestID)
	asked := a
	asked.RequestID = ""        // each has another
	asked.Source = netip.Addr{} // and it is in sources
	h.sources = append(h.sources, a.Source)
	h.acquires = append(h.acquires, asked)
	answer := h.answer
	h.mu.Unlock()
	return answer(ctx, a)
}

func (h *host) ReportActivity(_ context.Context, r guestproto.ReportActivity) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reports = append(h.reports, r.Instances...)
	return nil
}

func (h *host) script(f func(ctx context.Context, a guestproto.Acquire) (guestproto.AcquireResult, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer = f
}

func (h *host) asked() []guestproto.Acquire {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]guestproto.Acquire(nil), h.acquires...)
}

func (h *host) reported() []guestproto.Activity {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]guestproto.Activity(nil), h.reports...)
}

// says answers every question with the instances.
func says(awake ...guestproto.Awake) func(context.Context, guestproto.Acquire) (guestproto.AcquireResult, error) {
	return func(context.Context, guestproto.Acquire) (guestproto.AcquireResult, error) {
		return guestproto.AcquireResult{Success: true, Instances: awake}, nil
	}
}

// refuses answers every question with a refusal.
func refuses(detail string, retry int) func(context.Context, guestproto.Acquire) (guestproto.AcquireResult, error) {
	return func(context.Context, guestproto.Acquire) (guestproto.AcquireResult, error) {
		return guestproto.AcquireResult{Detail: &detail, RetrySecs: retry}, nil
	}
}

// refusesFailing refuses an instance whose service does not come up.
func refusesFailing(retry int) func(context.Context, guestproto.Acquire) (guestproto.AcquireResult, error) {
	return func(context.Context, guestproto.Acquire) (guestproto.AcquireResult, error) {
		return guestproto.AcquireResult{Detail: new("service app is failing"), RetrySecs: retry, Failing: true}, nil
	}
}

var (
	awake3 = guestproto.Awake{InstanceID: id3, IP: ip3}
	awake4 = guestproto.Awake{InstanceID: id4, IP: ip4}
)

// lab is a router on loopback with pretended instances.
type lab struct {
	busy   atomic.Bool // the gateway has as much to do as it can
	t      testing.TB
	router *gateway.Router
	host   *host

	mu      sync.Mutex
	listens map[string]string // configured port -> real address
	network map[string]string // instance address -> real address
	dialed  map[string]int
	dialing int                      // dials under way
	most    int                      // of them at once
	lost    map[string]int           // dials to lose, by address
	backs   []*net.TCPConn           // its ends of connections to instances
	stalled map[string]chan struct{} // dials wait until it is closed, by address
	hook    func()                   // at the end of a write to an instance
}

// newLab starts a router with the routes; limits may be changed by the options.
func newLab(t testing.TB, lim gateway.Limits, routes ...mvm.Route) *lab {
	l := &lab{t: t, host: &host{answer: says(awake3)},
		listens: map[string]string{}, network: map[string]string{}, dialed: map[string]int{}, lost: map[string]int{}, stalled: map[string]chan struct{}{}}
	l.router = gateway.New(gateway.Options{Host: l.host, Limits: lim, Dial: l.dial, Listen: l.listen,
		Busy: l.busy.Load})
	t.Cleanup(func() {
		if err := l.router.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if err := l.router.Configure(l.config(routes...)); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lab) config(routes ...mvm.Route) guestproto.Configure {
	return guestproto.Configure{Reason: "update", TenantID: "acme", PoolID: "gateways", InstanceID: "i-00000001",
		Role: mvm.RoleGateway, Routes: &mvm.RoutingTable{Routes: routes}, ListenPorts: []int{8443},
		Net: &guestproto.Net{Address: netip.MustParsePrefix("127.0.0.1/8"), Gateway: bridge}}
}

func (l *lab) listen(_ context.Context, _, addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listens[port] = ln.Addr().String()
	return ln, nil
}

func (l *lab) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	l.mu.Lock()
	l.dialed[addr]++
	l.dialing++
	l.most = max(l.most, l.dialing)
	real, ok := l.network[addr]
	lost := l.lost[addr] > 0
	if lost {
		l.lost[addr]--
	}
	stalled := l.stalled[addr]
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.dialing--
		l.mu.Unlock()
	}()
	if lost {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if stalled != nil {
		select {
		case <-stalled:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if !ok {
		return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, network, real)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.backs = append(l.backs, c.(*net.TCPConn))
	l.mu.Unlock()
	return hooked{c.(*net.TCPConn), l}, nil
}

// connected returns the router's ends of the connections that it made.
func (l *lab) connected() []*net.TCPConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*net.TCPConn(nil), l.backs...)
}

// hooked calls the lab's hook at the end of each write.
type hooked struct {
	*net.TCPConn
	l *lab
}

func (h hooked) Write(p []byte) (int, error) {
	h.l.mu.Lock()
	hook := h.l.hook
	h.l.mu.Unlock()
	n, err := h.TCPConn.Write(p)
	if hook != nil {
		hook()
	}
	return n, err
}

func (l *lab) atWrite(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hook = f
}

// at returns the real address of a configured port.
func (l *lab) at(port int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.listens[fmt.Sprint(port)]
}

func (l *lab) dials(addr string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dialed[addr]
}

// mostDials is how many dials were under way at once.
func (l *lab) mostDials() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.most
}

// lose makes the next n dials to the address wait for an answer that never comes.
func (l *lab) lose(addr string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost[addr] = n
}

// stall makes dials to the address wait until answer is called.
func (l *lab) stall(addr string) (answer func()) {
	gate := make(chan struct{})
	l.mu.Lock()
	l.stalled[addr] = gate
	l.mu.Unlock()
	return sync.OnceFunc(func() {
		l.mu.Lock()
		delete(l.stalled, addr)
		l.mu.Unlock()
		close(gate)
	})
}

func (l *lab) place(addr, real string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if real == "" {
		delete(l.network, addr)
		return
	}
	l.network[addr] = real
}

// instance serves h at the instance's port 80.
func (l *lab) instance(ip netip.Addr, h http.Handler) *httptest.Server {
	s := httptest.NewServer(h)
	l.t.Cleanup(s.Close)
	l.place(ip.String()+":80", s.Listener.Addr().String())
	return s
}

// named serves its name, and the body that it got.
func named(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", name, r.URL.RequestURI(), body)
	})
}

// client makes requests, each on a connection of its own.
func client() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * patience}
}

// do sends a request to a port of the router; header pairs follow the body.
func (l *lab) do(method string, port int, path, body string, header ...string) (int, http.Header, string) {
	l.t.Helper()
	req, err := http.NewRequest(method, "http://"+l.at(port)+path, strings.NewReader(body))
	if err != nil {
		l.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Add(header[i], header[i+1])
	}
	res, err := client().Do(req)
	if err != nil {
		l.t.Errorf("%s %s: %v", method, path, err)
		return 0, nil, ""
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		l.t.Errorf("%s %s: read: %v", method, path, err)
	}
	return res.StatusCode, res.Header, string(got)
}

// want checks one GET.
func (l *lab) want(port int, path string, status int, body string) {
	l.t.Helper()
	if code, _, got := l.do("GET", port, path, ""); code != status || !strings.Contains(got, body) {
		l.t.Errorf("GET :%d%s = %d %q, want %d with %q", port, path, code, got, status, body)
	}
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// raw opens a connection to a port with a deadline; from may be a source address.
func (l *lab) raw(port int, from netip.Addr) net.Conn {
	l.t.Helper()
	var d net.Dialer
	if from.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: from.AsSlice()}
	}
	c, err := d.Dial("tcp", l.at(port))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// webRoute is an HTTP route by prefix.
func webRoute(name string, port int, prefix string, s mvm.Selector) mvm.Route {
	return mvm.Route{Name: name, Match: mvm.MatchRule{Port: port, PathPrefix: prefix},
		To: mvm.Target{PoolID: "workers", Selector: s, TargetPort: 80}}
}

var anyOne = mvm.Selector{Kind: mvm.SelectAny}

func byKey(from string) mvm.Selector { return mvm.Selector{Kind: mvm.SelectByKey, From: from} }

var errBroken = errors.New("broken")

// broken is a host that does not answer.
func broken(context.Context, guestproto.Acquire) (guestproto.AcquireResult, error) {
	return guestproto.AcquireResult{}, errBroken
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
