package agent_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guestproto"
)

// strangers has a host on a virtual clock whose gateway takes keys for a pool of at most
// three instances, of which none is there yet.
func strangers(t *testing.T, test func(h *idleHost, acquire func(key, source string) guestproto.AcquireResult, served func(key string))) {
	idling(t, func(h *idleHost, spare mvm.Instance) {
		if err := h.destroy(spare.ID); err != nil {
			h.t.Fatal(err)
		}
		quota := mvm.DefaultQuota()
		quota.MaxInstancesPerPool = 3
		if _, err := h.a.UpdateTenant(ctx(h.t), "acme", mvm.TenantUpdate{Quota: &quota}); err != nil {
			h.t.Fatal(err)
		}
		spec := idleGateway(0)
		spec.Pinned = true
		gw := h.pool("acme", spec)
		acquire := func(key, source string) guestproto.AcquireResult {
			a := &guestproto.Acquire{TenantID: "acme", PoolID: "workers", Key: key}
			if source != "" {
				a.Source = netip.MustParseAddr(source)
			}
			r := h.call(gw.ID, guestproto.HostRequest{Acquire: a}).AcquireResult
			if r == nil {
				h.t.Fatalf("acquire %s: no result", key)
			}
			return *r
		}
		served := func(key string) {
			i, err := h.a.Instance(ctx(h.t), mvm.Address{Tenant: "acme", Pool: "workers", Key: key})
			if err != nil {
				h.t.Fatal(err)
			}
			h.report(gw.ID, guestproto.Activity{InstanceID: i.ID, Answered: true, LastActive: time.Now()})
		}
		test(h, acquire, served)
	})
}

// Made-up keys fill the pool, and a new user gets an instance all the same once those are
// left: the longest unused one that never served its key gives way. One that served is
// nobody's to take.
func TestMadeUpKeysDoNotLockOutUsers(t *testing.T) {
	strangers(t, func(h *idleHost, acquire func(string, string) guestproto.AcquireResult, served func(string)) {
		if r := acquire("ann@example.org", "192.0.2.1"); !r.Success {
			h.t.Fatalf("the first user: %+v", r)
		}
		served("ann@example.org")
		for _, key := range []string{"made-up-1", "made-up-2"} {
			time.Sleep(time.Second)
			if r := acquire(key, "192.0.2.66"); !r.Success {
				h.t.Fatalf("%s: %+v", key, r)
			}
		}
		r := acquire("bob@example.org", "192.0.2.2")
		if r.Success || r.RetrySecs == 0 || r.Limited || strings.ContainsAny(*r.Detail, "0123456789") || strings.Contains(*r.Detail, "max_") {
			h.t.Errorf("while the others are in use: %+v, %q; want a refusal without figures", r, *r.Detail)
		}
		time.Sleep(31 * time.Second)
		if r := acquire("bob@example.org", "192.0.2.2"); !r.Success {
			h.t.Fatalf("a new user: %+v, %q", r, *r.Detail)
		}
		served("bob@example.org")
		keys := map[string]bool{}
		for _, i := range h.all("workers") {
			keys[i.Key] = i.Unproven
		}
		if want := map[string]bool{"ann@example.org": false, "made-up-2": true, "bob@example.org": false}; fmt.Sprint(keys) != fmt.Sprint(want) {
			h.t.Errorf("keys, unproven: %v, want %v", keys, want)
		}
		time.Sleep(time.Hour)
		if r := acquire("cleo", ""); !r.Success { // an authenticated user
			h.t.Fatalf("a third user: %+v, %q", r, *r.Detail)
		}
		time.Sleep(time.Hour)
		if r := acquire("dora", "192.0.2.3"); r.Success {
			h.t.Error("an instance of a user was taken for another")
		}
		if n := len(h.all("workers")); n != 3 {
			h.t.Errorf("%d instances, want 3", n)
		}
	})
}

// One source names a few new keys at once and then one every few seconds; what it names
// again, others, and those who are authenticated are not held up.
func TestNewKeysOfASourceAreLimited(t *testing.T) {
	strangers(t, func(h *idleHost, acquire func(string, string) guestproto.AcquireResult, _ func(string)) {
		quota := mvm.DefaultQuota()
		quota.MaxInstancesPerPool, quota.MaxRunning, quota.MaxVCPUs, quota.MaxDiskGiB = 60, 60, 60, 500
		if _, err := h.a.UpdateTenant(ctx(h.t), "acme", mvm.TenantUpdate{Quota: &quota}); err != nil {
			h.t.Fatal(err)
		}
		limited, wait := 0, 0
		for n := range 30 {
			r := acquire(fmt.Sprint("made-up-", n), "192.0.2.66")
			switch {
			case r.Limited && !r.Success && r.RetrySecs > 0:
				limited++
				wait = r.RetrySecs
			case !r.Success:
				h.t.Fatalf("key %d: %+v, %q", n, r, *r.Detail)
			}
		}
		if n := len(h.all("workers")); n < 20 || n > 22 || limited != 30-n {
			h.t.Errorf("%d instances were made for 30 new keys of one source, %d refused", n, limited)
		}
		if r := acquire("made-up-0", "192.0.2.66"); !r.Success {
			h.t.Errorf("a key that has an instance: %+v", r)
		}
		for _, source := range []string{"192.0.2.1", ""} {
			if r := acquire("user of "+source, source); r.Success { // a space is in no key
				h.t.Errorf("%+v", r)
			}
			if r := acquire("user-of-"+source, source); !r.Success {
				h.t.Errorf("from %q: %+v", source, r)
			}
		}
		time.Sleep(time.Duration(wait) * time.Second)
		if r := acquire("made-up-later", "192.0.2.66"); !r.Success {
			h.t.Errorf("after %d s: %+v", wait, r)
		}
	})
}

// A new key counts once for its source, also where instances give way to it first.
func TestNewKeysThatOthersGiveWayToCountOnce(t *testing.T) {
	strangers(t, func(h *idleHost, acquire func(string, string) guestproto.AcquireResult, _ func(string)) {
		quota := mvm.DefaultQuota()
		quota.MaxInstancesPerPool, quota.MaxRunning, quota.MaxVCPUs, quota.MaxDiskGiB = 15, 60, 60, 500
		if _, err := h.a.UpdateTenant(ctx(h.t), "acme", mvm.TenantUpdate{Quota: &quota}); err != nil {
			h.t.Fatal(err)
		}
		for n := range 15 {
			if r := acquire(fmt.Sprint("made-up-", n), fmt.Sprint("192.0.2.", 100+n)); !r.Success {
				h.t.Fatalf("made-up key %d: %+v, %q", n, r, *r.Detail)
			}
		}
		time.Sleep(time.Hour)
		for n := range 15 {
			if r := acquire(fmt.Sprint("user-", n), "192.0.2.1"); !r.Success {
				h.t.Errorf("new key %d of its source: %+v, %q", n, r, *r.Detail)
			}
		}
	})
}

// Where memory is used up, what is asleep has none to give: neither the instance that is
// asked for nor another sleeper is destroyed for it.
func TestSleepersDoNotGiveWayForMemory(t *testing.T) {
	strangers(t, func(h *idleHost, acquire func(string, string) guestproto.AcquireResult, served func(string)) {
		quota := mvm.DefaultQuota()
		quota.MaxInstancesPerPool, quota.MaxRunning = 10, 3 // the gateway is one
		if _, err := h.a.UpdateTenant(ctx(h.t), "acme", mvm.TenantUpdate{Quota: &quota}); err != nil {
			h.t.Fatal(err)
		}
		for _, key := range []string{"bob", "dora", "ann", "cleo"} {
			r := acquire(key, "192.0.2.1")
			if !r.Success {
				h.t.Fatalf("%s: %+v, %q", key, r, *r.Detail)
			}
			switch id := r.Instances[0].InstanceID; key {
			case "bob":
				h.do(id, mvm.OpSleep)
			case "dora":
				h.do(id, mvm.OpSleep)
				time.Sleep(unprovenFor)
			default:
				served(key)
			}
		}
		before := h.all("workers")
		if r := acquire("bob", "192.0.2.1"); r.Success || r.RetrySecs == 0 {
			h.t.Errorf("while the others run: %+v", r)
		}
		if after := h.all("workers"); !slices.EqualFunc(before, after, func(x, y mvm.Instance) bool { return x.ID == y.ID && x.State == y.State }) {
			h.t.Errorf("the instances were %v and are %v", before, after)
		}
	})
}

// unprovenFor is after how long an instance that served nothing may give way.
const unprovenFor = 31 * time.Second

// Of one report every instance counts that answered, whatever else is in it.
func TestEachInstanceOfAReportCounts(t *testing.T) {
	strangers(t, func(h *idleHost, acquire func(string, string) guestproto.AcquireResult, served func(string)) {
		ids := map[string]string{}
		for _, key := range []string{"ann", "bob", "cid"} {
			if r := acquire(key, "192.0.2.1"); !r.Success {
				h.t.Fatalf("acquire %s: %+v", key, r)
			}
			ids[key] = h.byKey(key).ID
		}
		served("ann")
		now := time.Now()
		h.report(h.gateway(), guestproto.Activity{InstanceID: "no id", Answered: true, LastActive: now}, guestproto.Activity{InstanceID: "i-00000bad", Answered: true, LastActive: now},
			guestproto.Activity{InstanceID: ids["cid"], LastActive: now}, guestproto.Activity{InstanceID: ids["ann"], Answered: true, LastActive: now},
			guestproto.Activity{InstanceID: ids["bob"], Answered: true, LastActive: now})
		for key, want := range map[string]bool{"ann": false, "bob": false, "cid": true} {
			if got := h.byKey(key).Unproven; got != want {
				h.t.Errorf("%s is unproven: %v, want %v", key, got, want)
			}
		}
	})
}

func (h *idleHost) byKey(key string) mvm.Instance {
	h.t.Helper()
	i, err := h.a.Instance(ctx(h.t), mvm.Address{Tenant: "acme", Pool: "workers", Key: key})
	if err != nil {
		h.t.Fatal(err)
	}
	return i
}

// gateway is the id of the only gateway.
func (h *idleHost) gateway() string {
	h.t.Helper()
	all, err := h.a.Instances(ctx(h.t), mvm.Address{Tenant: "acme"})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, i := range all {
		if i.Address().Pool != "workers" {
			return i.ID
		}
	}
	h.t.Fatal("there is no gateway")
	return ""
}
