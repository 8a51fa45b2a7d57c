package agent_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/network/fakenet"
)

func acquireKey(key string) guestproto.HostRequest {
	return guestproto.HostRequest{Acquire: &guestproto.Acquire{TenantID: "acme", PoolID: "workers", Key: key}}
}

// TestRefusalsDoNotFloodTheAuditLog: the clients of a gateway can be refused by the
// quota as often as they like.
func TestRefusalsDoNotFloodTheAuditLog(t *testing.T) {
	h, gw, _, _ := gatewayHost(t)
	quota := mvm.DefaultQuota()
	quota.MaxInstancesPerPool, quota.MaxRunning = 1, 2
	if _, err := h.a.UpdateTenant(ctx(t), "acme", mvm.TenantUpdate{Quota: &quota}); err != nil {
		t.Fatal(err)
	}
	if r := h.ask(gw.ID, acquireKey("first")).AcquireResult; r == nil || !r.Success {
		t.Fatalf("spare: %+v", r)
	}
	refused := 0
	for n := range 150 {
		if r := h.ask(gw.ID, acquireKey(fmt.Sprint("key", n))).AcquireResult; r != nil && !r.Success {
			refused++
		}
	}
	if n := count(h.actions("acme"), mvm.QuotaExceeded); refused < 100 || n == 0 || n > 40 {
		t.Errorf("%d refusals made %d events, want some and not a flood", refused, n)
	}
}

// TestOthersLookAbsent: a guest can't tell another tenant's instance from none.
func TestOthersLookAbsent(t *testing.T) {
	h, gw, _, other := gatewayHost(t)
	said := func(id string) string {
		n := &guestproto.InstanceName{TenantID: "acme", PoolID: "workers", InstanceID: id}
		r := h.ask(gw.ID, guestproto.HostRequest{QueryInstanceStatus: n})
		w := h.ask(gw.ID, guestproto.HostRequest{WakeInstance: n})
		if r.Error == nil || w.WakeResult == nil || w.WakeResult.Detail == nil {
			t.Fatalf("%s: %+v, %+v, want refusals", id, r, w)
		}
		return strings.ReplaceAll(r.Error.Message+"; "+*w.WakeResult.Detail, id, "ID")
	}
	if got, want := said(other.ID), said("i-00000000"); got != want {
		t.Errorf("another tenant's: %q, none: %q", got, want)
	}
}

// TestDestroyWhileAcquired: a gateway that goes on having instances made does not
// keep a pool, nor its tenant, from being destroyed.
func TestDestroyWhileAcquired(t *testing.T) {
	h, gw, _, _ := gatewayHost(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for n := range 3 {
		wg.Go(func() {
			for k := 0; ; k++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := h.host.Ask(ctx(t), gw.ID, acquireKey(fmt.Sprintf("k%d-%d", n, k))); err != nil {
					continue
				}
			}
		})
	}
	waitUntil(t, func() bool {
		all, err := h.a.Instances(ctx(t), mvm.Address{Tenant: "acme", Pool: "workers"})
		return err == nil && len(all) > 3
	})
	if err := h.a.DestroyPool(ctx(t), "acme", "workers", nil); err != nil {
		t.Errorf("destroy pool: %v", err)
	}
	if err := h.a.DestroyTenant(ctx(t), "acme", nil); err != nil {
		t.Errorf("destroy tenant: %v", err)
	}
	close(stop)
	wg.Wait()
}

// TestKeysGetNoDoomedInstance: a user gets no instance that is being destroyed.
func TestKeysGetNoDoomedInstance(t *testing.T) {
	h, gw, spare, _ := gatewayHost(t)
	reached, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	h.onSeam(func(p string) error {
		if p == "destroy.fence:before" {
			once.Do(func() { close(reached); <-goOn })
		}
		return nil
	})
	done := make(chan error, 1)
	go func() { done <- h.try(spare.ID, mvm.OpDestroy) }()
	<-reached
	r := h.ask(gw.ID, acquireKey("ann")).AcquireResult
	if !r.Success || r.Instances[0].InstanceID == spare.ID {
		t.Errorf("got %+v, want a new instance", r)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestConsoleIsNoWayOut: the folder of the console log belongs to the VMM's user; a
// VMM that was taken over can put a link to any file there.
func TestConsoleIsNoWayOut(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("of the host\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	console := filepath.Join(h.dir, "instances", i.ID, "console.log")
	if err := os.RemoveAll(console); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, console); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := h.a.Logs(ctx(t), mvm.Address{Instance: i.ID}, mvm.LogsSpec{Console: true}, func(l mvm.LogLine) error {
		got = append(got, l.Text)
		return nil
	})
	if err == nil || len(got) > 0 {
		t.Errorf("console: %q, %v; want an error", got, err)
	}
}

// TestHostErrorsStayOnTheHost: what a gateway may pass on to its clients says nothing
// of the host.
func TestHostErrorsStayOnTheHost(t *testing.T) {
	h, gw, w, _ := gatewayHost(t)
	h.do(w.ID, mvm.OpSleep)
	h.net.Fail(fakenet.OpOpenTAP, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: os.ErrPermission}, -1)
	wake := h.ask(gw.ID, guestproto.HostRequest{WakeInstance: name(w)}).WakeResult
	got := h.ask(gw.ID, acquireKey("ann")).AcquireResult
	if wake == nil || wake.Success || got == nil || got.Success || got.RetrySecs == 0 {
		t.Fatalf("wake %+v, acquire %+v; want both failed, with a time to retry", wake, got)
	}
	for _, said := range []*string{wake.Detail, got.Detail} {
		if said == nil || strings.Contains(*said, "/dev") {
			t.Errorf("the guest is told %v, want nothing of the host", said)
		}
	}
	h.net.Fail(fakenet.OpOpenTAP, nil, 0)
	h.do(w.ID, mvm.OpWake)
}
