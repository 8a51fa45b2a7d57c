package guest_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
)

// toldHost takes the guest's reports. It answers the first ones with err.
type toldHost struct {
	mu    sync.Mutex
	told  []guestproto.Status
	fails int
}

func (h *toldHost) Call(_ context.Context, req guestproto.HostRequest) (guestproto.HostResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if req.ReportHealth == nil {
		return guestproto.HostResponse{}, errors.New("another request")
	}
	if h.fails > 0 {
		h.fails--
		return guestproto.HostResponse{}, errors.New("the agent restarts")
	}
	h.told = append(h.told, *req.ReportHealth)
	return guestproto.HostResponse{HealthAck: true}, nil
}

func (h *toldHost) last() (s guestproto.Status, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n = len(h.told); n > 0 {
		s = h.told[n-1]
	}
	return s, n
}

// awaitReport waits for a report of one service that is as wanted.
func (h *toldHost) await(t *testing.T, what string, is func(guestproto.Status) bool) {
	t.Helper()
	eventually(t, "the host is told: "+what, func() bool { s, _ := h.last(); return is(s) })
}

// A guest tells its host how its services are when that changes, also when the host does
// not take it at first, and says nothing while nothing changes.
func TestHealthIsReportedOnChange(t *testing.T) {
	mend := filepath.Join(t.TempDir(), "mend")
	host := &toldHost{fails: 1}
	m := newMachineWith(t, host, workload.Service{Name: "app", Command: sh("test -e " + mend + " && exec sleep 1000; echo no database >&2; exit 3"),
		Ready: &workload.Ready{File: mend, IntervalMS: 5}})
	m.mustConfigure(boot())
	host.await(t, "app crashes again and again", func(s guestproto.Status) bool {
		if len(s.Services) != 1 {
			return false
		}
		app := s.Services[0]
		return !s.Ready && app.Fails >= 3 && app.Restarts >= 2 && app.ExitCode != nil && *app.ExitCode == 3
	})
	if s := m.service("app"); s.Fails < 3 || s.ExitCode == nil {
		t.Errorf("asked, the guest says %+v, want what it reported", s)
	}
	writeFile(t, mend, "")
	host.await(t, "app is ready", func(s guestproto.Status) bool { return s.Ready && s.Services[0].State == "ready" })
	s, n := host.last()
	for _, told := range host.told[:n-1] {
		if told.Version >= s.Version {
			t.Errorf("a report before the last has version %d, the last %d", told.Version, s.Version)
		}
	}
	time.Sleep(3 * 500 * time.Millisecond) // it could have told three times
	if _, now := host.last(); now != n {
		t.Errorf("%d reports while nothing changed", now-n)
	}
}

// A service without a check that failed before is not ready the moment it runs again.
func TestServiceThatFailedHasToProveItself(t *testing.T) {
	count := filepath.Join(t.TempDir(), "count")
	host := &toldHost{}
	m := newMachineWith(t, host, workload.Service{Name: "app", Command: sh("echo >>" + count + "; sleep 1.5; exit 1")})
	m.mustConfigure(boot())
	eventually(t, "three runs were begun", func() bool { b, _ := os.ReadFile(count); return len(b) >= 3 })
	host.mu.Lock()
	defer host.mu.Unlock()
	for _, s := range host.told {
		if s.Ready && len(s.Services) == 1 && s.Services[0].Fails > 0 {
			t.Errorf("ready after a run that failed: %+v", s)
		}
	}
}

// One that is broken for good says so.
func TestBrokenDefinitionIsReported(t *testing.T) {
	host := &toldHost{}
	m := newMachineWith(t, host, workload.Service{Name: "app", Restart: "sometimes", Command: []string{"true"}})
	m.mustConfigure(boot())
	host.await(t, "app can't run", func(s guestproto.Status) bool {
		return len(s.Services) == 1 && s.Services[0].State == "failed" && s.Services[0].Detail == `restart "sometimes" is not always, on-failure or never`
	})
}

// olderHost does not know the report, and counts how often it is told.
type olderHost struct{ calls atomic.Int32 }

func (h *olderHost) Call(context.Context, guestproto.HostRequest) (guestproto.HostResponse, error) {
	h.calls.Add(1)
	err := &guestproto.VariantError{Message: "HostRequest", Variant: "ReportHealth", Problem: guestproto.NoVariant}
	return guestproto.HostResponse{}, &guestproto.RemoteError{Message: err.Error()}
}

// A host of an older mvm is not told again and again.
func TestHealthOfAnOlderHost(t *testing.T) {
	host := &olderHost{}
	m := newMachineWith(t, host, workload.Service{Name: "app", Command: []string{"/no/such/program"}, Restart: "never"})
	m.mustConfigure(boot())
	eventually(t, "the host was told", func() bool { return host.calls.Load() > 0 })
	m.awaitState("app", "failed")
	time.Sleep(4 * time.Second) // a report that fails is tried again after a second
	if n := host.calls.Load(); n > 2 {
		t.Errorf("a host that does not know of health was told %d times", n)
	}
}
