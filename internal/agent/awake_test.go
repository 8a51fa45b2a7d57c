package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/publish"
	"mvm/internal/testenv"
)

// counted returns how many operations have ended and how many passes reconcile made.
func (h *host) counted() (ops, passes int) {
	h.metrics.mu.Lock()
	defer h.metrics.mu.Unlock()
	return len(h.metrics.ops), h.metrics.got["reconciled"]
}

// echoPort stands in for a port of a guest: it reads to the end of each connection, and
// answers with one byte.
func echoPort(t *testing.T) net.Addr {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				_, _ = io.Copy(io.Discard, c)
				_, _ = c.Write([]byte("x"))
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return ln.Addr()
}

// TestWhatRunsCostsNoOperation: connections to published ports, a gateway's questions and
// wakes of instances that run and are ready go through no runner: they are no operations
// in the metrics, and no reason for a pass of reconcile.
func TestWhatRunsCostsNoOperation(t *testing.T) {
	guest := echoPort(t)
	h := newHost(t)
	pub := publish.New(publish.Options{})
	t.Cleanup(func() { _ = pub.Close() })
	h.pub, h.every = pub, 24*time.Hour
	h.dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, guest.String())
	}
	h.start()
	if _, err := h.a.CreateTenant(ctx(t), mvm.TenantSpec{ID: "acme"}); err != nil {
		t.Fatal(err)
	}
	spec := worker("workers")
	spec.Critical = true // reconcile looks at it, and leaves it alone
	w := h.pool("acme", spec)
	spec.ID, spec.Role, spec.Routes = "gateways", mvm.RoleGateway, routesTo("workers")
	spec.Publish = []mvm.Publish{{Host: netip.MustParseAddrPort("127.0.0.1:0"), Guest: 80}}
	gw := h.pool("acme", spec)
	p, err := h.a.Pool(ctx(t), "acme", "gateways")
	if err != nil {
		t.Fatal(err)
	}
	q := guestproto.HostRequest{Acquire: &guestproto.Acquire{PoolID: "workers"}}
	ways := []struct {
		name string
		do   func()
	}{
		{"a published connection", func() {
			c, err := net.Dial("tcp", p.Bound[0].String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			if err := c.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Fatalf("read from the published port: %v", err)
			}
		}},
		{"an Acquire", func() {
			if r := h.ask(gw.ID, q).AcquireResult; r == nil || !r.Success || r.Instances[0].InstanceID != w.ID {
				t.Fatalf("acquire: %+v", r)
			}
		}},
		{"a WakeInstance", func() {
			if r := h.ask(gw.ID, guestproto.HostRequest{WakeInstance: name(w)}).WakeResult; r == nil || !r.Success {
				t.Fatalf("wake: %+v", r)
			}
		}},
		{"a wake by a person", func() { h.do(w.ID, mvm.OpWake) }},
		{"a start by a person", func() { h.do(w.ID, mvm.OpStart) }},
		{"a resume by a person", func() { h.do(w.ID, mvm.OpResume) }},
	}
	for _, way := range ways {
		way.do()
	}
	for _, way := range ways {
		// What making them has set in motion may still come, once; what a way costs comes each time.
		testenv.Eventually(t, 20*time.Second, func() error {
			ops, passes := h.counted()
			for range 50 {
				way.do()
			}
			if o, r := h.counted(); o != ops || r != passes {
				return fmt.Errorf("%s, 50 times: %d operations and %d passes, want none", way.name, o-ops, r-passes)
			}
			return nil
		})
	}
}

// TestWhatDoesNotServeGetsItsOperation: of an instance that is on its way elsewhere, whose
// VMM has ended or whose host stands still, nobody says that it runs.
func TestWhatDoesNotServeGetsItsOperation(t *testing.T) {
	h, gw, w, _ := gatewayHost(t)
	q := guestproto.HostRequest{Acquire: &guestproto.Acquire{PoolID: "workers"}}
	acquire := func(when string) {
		t.Helper()
		if r := h.ask(gw.ID, q).AcquireResult; r == nil || !r.Success {
			t.Errorf("%s: %+v", when, r)
		}
		if got := h.get(w.ID); got.State != mvm.StateRunning || got.Op != nil {
			t.Errorf("%s: it is %s, op %v", when, got.State, got.Op)
		}
	}
	// A sleep that has been queued and not begun: the record says that it runs.
	reached, goOn := h.holdAt("sleep.begin:before")
	slept := make(chan error, 1)
	go func() { slept <- h.try(w.ID, mvm.OpSleep) }()
	<-reached
	woke := make(chan struct{})
	go func() { acquire("with a sleep queued"); close(woke) }()
	waitUntil(t, func() bool { n, _ := h.a.Queued(w.ID); return n == 2 })
	goOn()
	<-woke
	if err := <-slept; err == nil || !strings.Contains(err.Error(), "a wake arrived") {
		t.Errorf("the sleep ended with %v", err)
	}
	for _, op := range []mvm.OpKind{mvm.OpWarm, mvm.OpSleep, mvm.OpStop} {
		h.do(w.ID, op)
		acquire("after " + string(op))
	}
	h.host.Crash(w.ID)
	acquire("after its VMM ended")
	h.stop()
	h.start()
	acquire("after a restart of the agent")
	h.a.Close()
	if err := h.try(w.ID, mvm.OpWake); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a wake of a closed agent: %v", err)
	}
}
