package agent

import (
	"context"
	"sync"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/store"
)

// fenceTimeout bounds what a gateway may take to hear of a sleep.
const fenceTimeout = 3 * time.Second

// fenceGateways tells the tenant's running gateways that the instance is going
// away, and returns how many requests to it they have under way. A gateway that
// does not answer counts as having none: it can't send anything either without
// asking, since the instance's port is gone.
func (a *Agent) fenceGateways(ctx context.Context, i mvm.Instance) int {
	ctx, cancel := context.WithTimeout(ctx, fenceTimeout)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	active := 0
	for _, g := range a.liveGateways(i.Tenant) {
		if g.ID == i.ID {
			continue
		}
		wg.Go(func() {
			resp, err := a.ask(ctx, g.ID, guestproto.Request{Fence: &guestproto.Fence{InstanceID: i.ID, IP: i.IP}})
			if err != nil || resp.FenceAck == nil {
				a.log.Warn("fence at gateway", "gateway", g.ID, "instance", i.ID, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			active += max(0, resp.FenceAck.ActiveRequests)
		})
	}
	wg.Wait()
	return active
}

// liveGateways are the tenant's gateway instances that run.
func (a *Agent) liveGateways(tenant string) (out []mvm.Instance) {
	err := a.store.View(func(tx *store.Tx) error {
		all, err := tx.Instances(tenant, "")
		for _, i := range all {
			if i.Role == mvm.RoleGateway && i.State == mvm.StateRunning && a.liveOf(i.ID) != nil {
				out = append(out, i)
			}
		}
		return err
	})
	if err != nil {
		a.log.Error("list gateways", "tenant", tenant, "error", err)
	}
	return out
}

// maxActivity bounds what one report may hold.
const maxActivity = 1024

// activityTable holds what the gateways say of how busy instances are.
type activityTable struct {
	mu sync.Mutex
	by map[string]map[string]guestproto.Activity // instance -> gateway -> activity
}

// report takes a gateway's report; owns says whether an instance is its tenant's.
func (t *activityTable) report(gateway string, acts []guestproto.Activity, owns func(string) bool) {
	if len(acts) > maxActivity {
		acts = acts[:maxActivity]
	}
	for _, act := range acts {
		if mvm.ValidateInstanceID(act.InstanceID) != nil || !owns(act.InstanceID) {
			continue
		}
		act.Connections = max(0, act.Connections)
		if now := time.Now(); act.LastActive.After(now) {
			act.LastActive = now
		}
		t.mu.Lock()
		if t.by == nil {
			t.by = map[string]map[string]guestproto.Activity{}
		}
		if t.by[act.InstanceID] == nil {
			t.by[act.InstanceID] = map[string]guestproto.Activity{}
		}
		t.by[act.InstanceID][gateway] = act
		t.mu.Unlock()
	}
}

// of adds up what every gateway said of the instance.
func (t *activityTable) of(id string) (connections int, last time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, act := range t.by[id] {
		connections += act.Connections
		if act.LastActive.After(last) {
			last = act.LastActive
		}
	}
	return connections, last
}

// forget drops what is known of an instance that is gone.
func (t *activityTable) forget(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.by, id)
	for _, g := range t.by {
		delete(g, id)
	}
}
