package drivertest

import (
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/guestproto"
)

// asks is how often the guest is had ask.
const asks = 3

// hostBound: what the guest asks its host comes in on the socket of its instance.
func (l *life) hostBound(t *testing.T) {
	ln, err := net.Listen("unix", filepath.Join(l.spec.RunDir, "v.sock_53"))
	if err != nil {
		t.Fatal(err)
	}
	h := &hostSide{within: l.Patience}
	h.served.Go(func() { h.serve(ln) })
	ask := l.Ask
	if ask == nil {
		ask = l.askAsGateway
	}
	for range asks {
		ask(t, l.v, l.spec)
	}
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
	h.served.Wait()
	if h.err != nil {
		t.Error(h.err)
	}
	if len(h.got) < asks {
		t.Errorf("the host heard %v, want %d requests", h.got, asks)
	}
	ask(t, l.v, l.spec) // nobody listens: the guest is told, and lives
	l.awake(t, l.v)
	l.boot = l.bootID(t, l.v)
}

// hostSide is an agent that refuses everything.
type hostSide struct {
	within time.Duration
	served sync.WaitGroup

	mu  sync.Mutex
	got []string // variants
	err error
}

func (h *hostSide) serve(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		h.served.Go(func() {
			defer c.Close()
			name, err := h.answer(c)
			h.mu.Lock()
			defer h.mu.Unlock()
			h.err = errors.Join(h.err, err)
			if err == nil {
				h.got = append(h.got, name)
			}
		})
	}
}

func (h *hostSide) answer(c net.Conn) (string, error) {
	if err := c.SetDeadline(time.Now().Add(h.within)); err != nil {
		return "", err
	}
	var req guestproto.HostRequest
	if err := guestproto.Receive(c, &req); err != nil {
		return "", err
	}
	return guestproto.Variant(req), guestproto.Send(c, guestproto.HostResponse{Error: &guestproto.Error{Message: "not here"}})
}

// askAsGateway makes the guest a gateway and sends it a request from within, for
// which it has to ask its host.
func (l *life) askAsGateway(t testing.TB, v driver.VMM, _ driver.Spec) {
	t.Helper()
	const port = 8080
	routes := mvm.RoutingTable{Routes: []mvm.Route{{Name: "all", Match: mvm.MatchRule{Port: port, PathPrefix: "/"},
		To: mvm.Target{PoolID: "workers", Selector: mvm.Selector{Kind: mvm.SelectAny}, TargetPort: port}}}}
	l.configure(t, v, guestproto.Configure{Reason: "update", TenantID: "acme", PoolID: "gateways", InstanceID: l.spec.ID,
		Role: mvm.RoleGateway, Hostname: "gateway", Routes: &routes})
	out, err := l.try(t, v, nil, "wget", "-q", "-O", "-", "http://127.0.0.1:8080/")
	if err == nil {
		t.Errorf("the gateway found an instance, and answered %q", out)
	}
}

// configure gives the guest its configuration.
func (s *suite) configure(t testing.TB, v driver.VMM, c guestproto.Configure) {
	t.Helper()
	conn, err := v.Dial(t.Context(), guestproto.GuestPort)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	resp, err := guestproto.Call(t.Context(), conn, guestproto.Request{Configure: &c})
	if err != nil || resp.ConfigureAck == nil || !resp.ConfigureAck.Success {
		t.Fatalf("configure answered %+v, %v", resp.ConfigureAck, err)
	}
}
