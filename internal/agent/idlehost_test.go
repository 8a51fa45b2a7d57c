package agent_test

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/guestproto"
	"mvm/internal/sys"
)

// idleHost is a host on a virtual clock, with a pool of workers that go warm after 10 s
// and to sleep after 20 s.
type idleHost struct {
	*host
	t *testing.T

	mu    sync.Mutex
	lines map[string]*pipes // by path of the host-bound socket
}

// idling runs the test on a virtual clock, on a host with one running worker.
func idling(t *testing.T, test func(h *idleHost, i mvm.Instance)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := newIdleHost(t)
		h.start()
		h.tenant()
		test(h, h.pool("acme", idleWorker("workers")))
	})
}

func newIdleHost(t *testing.T) *idleHost {
	h := &idleHost{host: newHost(t), t: t, lines: map[string]*pipes{}}
	h.listen = func(d *sys.Folder, name string) (net.Listener, error) {
		p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.lines[filepath.Join(d.Path(), name)] = p
		return p, nil
	}
	return h
}

func (h *idleHost) tenant() {
	h.t.Helper()
	if _, err := h.a.CreateTenant(ctx(h.t), mvm.TenantSpec{ID: "acme"}); err != nil {
		h.t.Fatal(err)
	}
}

func idleWorker(id string) mvm.PoolSpec {
	s := worker(id)
	s.Resources.DataDiskMiB = 0
	s.Policy.WarmAfterSeconds, s.Policy.SleepAfterSeconds = 10, 20
	return s
}

func idleGateway(running int) mvm.PoolSpec {
	s := idleWorker("gateways")
	s.Role, s.Desired.Running, s.Routes = mvm.RoleGateway, running, routesTo("workers")
	return s
}

// more starts another instance of the pool.
func (h *idleHost) more(pool string) mvm.Instance {
	h.t.Helper()
	i, err := h.a.CreateInstance(ctx(h.t), "acme", pool, "")
	if err != nil {
		h.t.Fatal(err)
	}
	return h.do(i.ID, mvm.OpStart)
}

func (h *idleHost) get(id string) mvm.Instance {
	h.t.Helper()
	i, err := h.a.Instance(ctx(h.t), mvm.Address{Instance: id})
	if err != nil {
		h.t.Fatal(err)
	}
	return i
}

// after lets the time pass and returns the instance as it is then.
func (h *idleHost) after(d time.Duration, id string) mvm.Instance {
	h.t.Helper()
	time.Sleep(d)
	synctest.Wait()
	return h.get(id)
}

// want checks the state that the instance is in after the time.
func (h *idleHost) want(d time.Duration, id string, st mvm.State) mvm.Instance {
	h.t.Helper()
	i := h.after(d, id)
	if i.State != st || i.Op != nil {
		h.t.Fatalf("after %s it is %s, op %+v, idle %+v; want %s", d, i.State, i.Op, i.Idle, st)
	}
	return i
}

// wantAwake checks that the instance runs for a minute more, and says why.
func (h *idleHost) wantAwake(id, because string) {
	h.t.Helper()
	for range 12 {
		i := h.want(5*time.Second, id, mvm.StateRunning)
		if i.Idle == nil || !strings.Contains(i.Idle.Awake, because) {
			h.t.Fatalf("idle %+v, want it awake because %q", i.Idle, because)
		}
	}
}

// eventsOf are the details of the instance's events of the kind.
func (h *idleHost) eventsOf(id string, action mvm.Action) (out []mvm.Event) {
	h.t.Helper()
	err := h.a.Events(ctx(h.t), mvm.EventFilter{Instance: id}, func(e mvm.Event) error {
		if e.Action == action {
			out = append(out, e)
		}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// report is a gateway's report of what it has open to an instance.
func (h *idleHost) report(gateway string, acts ...guestproto.Activity) {
	h.t.Helper()
	h.call(gateway, guestproto.HostRequest{ReportActivity: &guestproto.ReportActivity{Instances: acts}})
}

// call is a gateway's request on port 53.
func (h *idleHost) call(gateway string, req guestproto.HostRequest) guestproto.HostResponse {
	h.t.Helper()
	h.mu.Lock()
	p := h.lines[filepath.Join(h.run, "i", gateway, "v.sock_53")]
	h.mu.Unlock()
	here, there := net.Pipe()
	defer here.Close()
	p.conns <- there
	resp, err := guestproto.HostCall(ctx(h.t), here, req)
	if err != nil {
		h.t.Fatalf("ask the host: %v", err)
	}
	return resp
}

// hold makes whoever comes to the point wait; reached tells that somebody did.
func (h *idleHost) hold(point string) (reached <-chan struct{}, goOn func()) {
	at, on := make(chan struct{}), make(chan struct{})
	var once sync.Once
	h.onSeam(func(p string) error {
		if p == point {
			once.Do(func() { close(at); <-on })
		}
		return nil
	})
	return at, sync.OnceFunc(func() { close(on) })
}

// behave is how the instance's guest behaves; the others go on as they were.
func (h *idleHost) behave(id string, b fake.Behavior) { h.host.host.Behave(id, b) }

// pipes is a listener without a socket.
type pipes struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }

// execFor runs a command in the guest for the time; done is closed at its end.
func (h *idleHost) execFor(id, seconds string) (done chan error) {
	done = make(chan error, 1)
	c, cancel := context.WithTimeout(h.t.Context(), time.Hour)
	h.t.Cleanup(cancel)
	go func() {
		_, err := h.a.Exec(c, mvm.Address{Instance: id}, mvm.ExecSpec{Argv: []string{"sleep", seconds}}, mvm.ExecIO{})
		done <- err
	}()
	return done
}
