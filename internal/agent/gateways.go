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

// gatewayUse is what the gateways say of an instance's use.
type gatewayUse struct {
	active int       // requests under way, and streams that carried bytes just now
	open   int       // with streams that are quiet
	last   time.Time // last bytes
}

// fenceGateways tells the tenant's running gateways that the instance is going
// away, and returns what they have under way to it. A gateway that
// does not answer counts as having none: it can't send anything either without
// asking, since the instance's port is gone.
func (a *Agent) fenceGateways(ctx context.Context, i mvm.Instance) (use gatewayUse) {
	ctx, cancel := context.WithTimeout(ctx, fenceTimeout)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
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
			act := guestproto.Activity{InstanceID: i.ID, Connections: resp.FenceAck.ActiveRequests, Open: resp.FenceAck.Open,
				LastActive: resp.FenceAck.LastActive}
			a.activity.report(g.ID, []guestproto.Activity{act}, func(string) bool { return true })
			mu.Lock()
			defer mu.Unlock()
			use.active += max(0, act.Connections)
			use.open += max(0, act.Connections, act.Open)
			if act.LastActive.After(use.last) {
				use.last = act.LastActive
			}
		})
	}
	wg.Wait()
	return use
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
		act.Open = max(act.Connections, act.Open)
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

// of adds up what every gateway said of the instance; busiest is the gateway with the
// most open connections, "" where there is none.
func (t *activityTable) of(id string) (use gatewayUse, busiest string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	most := 0
	for g, act := range t.by[id] {
		use.active += act.Connections
		use.open += act.Open
		if act.LastActive.After(use.last) {
			use.last = act.LastActive
		}
		if act.Open > most || act.Open == most && most > 0 && g < busiest {
			most, busiest = act.Open, g
		}
	}
	return use, busiest
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

// gone notes that the gateway's VMM ended, and its connections with it.
func (t *activityTable) gone(gateway string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, g := range t.by {
		if act, ok := g[gateway]; ok {
			act.Connections, act.Open = 0, 0
			g[gateway] = act
		}
	}
}
