package roster_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mvm/internal/guest/gateway/roster"
	"mvm/internal/guest/gateway/wire"
	"mvm/internal/guestproto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const id = "i-00000003"

// host answers that the instance is awake, once let is closed.
type host struct {
	mu    sync.Mutex
	asked []guestproto.Acquire
	boot  int
	let   chan struct{}
}

func (h *host) Acquire(ctx context.Context, a guestproto.Acquire) (guestproto.AcquireResult, error) {
	h.mu.Lock()
	h.asked = append(h.asked, a)
	boot, let := h.boot, h.let
	h.mu.Unlock()
	select {
	case <-let:
		return guestproto.AcquireResult{Success: true, Instances: []guestproto.Awake{{InstanceID: id, Boot: boot, IP: netip.MustParseAddr("10.240.5.3")}}}, nil
	case <-ctx.Done():
		return guestproto.AcquireResult{}, ctx.Err()
	}
}

func (h *host) ReportActivity(context.Context, guestproto.ReportActivity) error { return nil }

func (h *host) questions() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.asked)
}

func (h *host) booted(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.boot = n
}

// newRoster is a roster of a host that answers at once, and of an instance whose port echoes.
func newRoster(t *testing.T, lim roster.Limits) (*roster.Roster, *host) {
	t.Helper()
	h := &host{boot: 1, let: make(chan struct{})}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var echoes sync.WaitGroup
	echoes.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			echoes.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	ro := roster.New(ctx, roster.Options{Log: slog.New(slog.DiscardHandler), Host: h, Now: time.Now, Limits: lim,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, ln.Addr().String())
		}})
	ro.Configure("acme", map[string]bool{"workers": true})
	ro.Start()
	t.Cleanup(func() {
		cancel()
		ro.Close()
		ro.Wait()
		_ = ln.Close()
		echoes.Wait()
	})
	return ro, h
}

var workers = roster.Target{Pool: "workers"}

func lease(t *testing.T, ro *roster.Roster) *roster.Lease {
	t.Helper()
	l, err := ro.Lease(t.Context(), workers)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestManyLeasesAreOneQuestion, and what is known to be awake costs none until a fence.
func TestManyLeasesAreOneQuestion(t *testing.T) {
	ro, h := newRoster(t, roster.Limits{})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			l, err := ro.Lease(t.Context(), workers)
			if err != nil {
				t.Error(err)
				return
			}
			l.End()
			l.End() // does nothing
		})
	}
	for h.questions() == 0 {
		time.Sleep(time.Millisecond)
	}
	close(h.let)
	all.Wait()
	lease(t, ro).End()
	if n := h.questions(); n != 1 {
		t.Errorf("21 leases asked %d times, want once", n)
	}
	l := lease(t, ro)
	if n := ro.Fence(guestproto.Fence{InstanceID: id, Boot: 1}); n != 1 {
		t.Errorf("a fence counts %d uses, want 1", n)
	}
	l.End()
	lease(t, ro).End()
	if n := h.questions(); n != 2 {
		t.Errorf("after a fence %d questions were asked, want 2", n)
	}
	if n := ro.Active(); n != 0 {
		t.Errorf("%d uses are left", n)
	}
}

// TestHeldIsBounded in number and time.
func TestHeldIsBounded(t *testing.T) {
	ro, h := newRoster(t, roster.Limits{Held: 1, Hold: 50 * time.Millisecond})
	done := make(chan error, 1)
	go func() {
		_, err := ro.Lease(t.Context(), workers)
		done <- err
	}()
	for h.questions() == 0 {
		time.Sleep(time.Millisecond)
	}
	var e *wire.Refusal
	if _, err := ro.Lease(t.Context(), roster.Target{Pool: "workers", Key: "ann"}); !errors.As(err, &e) || e.Status != 503 || e.Retry == 0 {
		t.Errorf("one more than may be held: %v, want a 503 with a time to try again", err)
	}
	if err := <-done; !errors.As(err, &e) || e.Status != 503 {
		t.Errorf("held for too long: %v, want a 503", err)
	}
}

// TestParkedConnectionAndEnd: what is sent after a fence has the instance awake first; where the
// memory is gone the connection ends.
func TestParkedConnectionAndEnd(t *testing.T) {
	ro, h := newRoster(t, roster.Limits{})
	close(h.let)
	l := lease(t, ro)
	defer l.End()
	c, err := l.Dial(t.Context(), 80)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	say := func() error {
		if _, err := io.WriteString(c, "hello"); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 5))
		return err
	}
	if err := say(); err != nil {
		t.Fatal(err)
	}
	ro.Fence(guestproto.Fence{InstanceID: id, Boot: 1})
	if err := say(); err != nil {
		t.Error(err)
	}
	if n := h.questions(); n != 2 {
		t.Errorf("%d questions, want another one before the parked connection sends", n)
	}
	if p := ro.Peers(); len(p.Instances) != 1 || p.Instances[0] != (guestproto.Peer{InstanceID: id, Boot: 1}) {
		t.Errorf("peers are %+v", p)
	}
	h.booted(2)
	ro.Fence(guestproto.Fence{InstanceID: id, Boot: 1, Gone: true})
	if err := say(); err == nil {
		t.Error("the memory is gone, and its connection goes on")
	}
	if again := lease(t, ro); !l.Gone() || again.Gone() {
		t.Error("the first boot is gone, and the second is there")
	} else {
		again.End()
	}
}
