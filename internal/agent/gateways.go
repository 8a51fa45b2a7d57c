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
			a.activity.report(g.ID, []guestproto.Activity{act}, func(guestproto.Activity) bool { return true })
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

// memoryGone ends every connection to the instance: the memory of its boots up to the
// present one is lost. The tenant's gateways have been told when it returns, but for those
// that do not answer: they are asked later, see checkPeers.
func (a *Agent) memoryGone(ctx context.Context, i mvm.Instance) {
	a.connectionsOver(i)
	a.tellGateways(ctx, i)
}

// memoryGoneSoon is memoryGone, but for that it does not wait for gateways.
func (a *Agent) memoryGoneSoon(i mvm.Instance) {
	a.connectionsOver(i)
	a.goTracked(func() { a.tellGateways(a.ctx, i) })
}

// connectionsOver ends the connections that the host itself has to the instance, and
// counts those of gateways no more.
func (a *Agent) connectionsOver(i mvm.Instance) {
	a.activity.over(i.ID)
	a.forwards.cut(i.ID)
}

func (a *Agent) tellGateways(ctx context.Context, i mvm.Instance) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fenceTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, g := range a.liveGateways(i.Tenant) {
		if g.ID != i.ID {
			wg.Go(func() {
				a.tellGone(ctx, g.ID, guestproto.Fence{InstanceID: i.ID, IP: i.IP, Boot: i.DiskGeneration, Gone: true})
			})
		}
	}
	wg.Wait()
}

// tellGone tells one gateway.
func (a *Agent) tellGone(ctx context.Context, gateway string, f guestproto.Fence) {
	resp, err := a.ask(ctx, gateway, guestproto.Request{Fence: &f})
	if err != nil && resp.Error == nil {
		a.log.Warn("tell gateway that an instance is gone", "gateway", gateway, "instance", f.InstanceID, "error", err)
		a.unreconciled.Set(gateway, true)
	}
}

// checkPeers asks a gateway to which instances it has connections, and tells it which of
// them are gone. It is for a gateway that may have missed that: it slept, or did not
// answer, or the agent was away.
func (a *Agent) checkPeers(id string) {
	g, err := a.Instance(a.ctx, mvm.Address{Instance: id})
	a.unreconciled.Set(id, false) // before it is asked: what it misses after that sets it again
	if err != nil || g.Role != mvm.RoleGateway || g.State != mvm.StateRunning || a.liveOf(id) == nil {
		return // when it wakes it is asked
	}
	ctx, cancel := context.WithTimeout(a.ctx, fenceTimeout)
	defer cancel()
	resp, err := a.ask(ctx, id, guestproto.Request{Peers: true})
	if err != nil {
		if resp.Error == nil && a.ctx.Err() == nil { // and not a guest of an earlier version
			a.log.Warn("ask gateway for its connections", "gateway", id, "error", err)
			a.unreconciled.Set(id, true)
		}
		return
	}
	if resp.Peers == nil {
		return
	}
	peers := resp.Peers.Instances
	for _, p := range peers[:min(len(peers), guestproto.MaxPeers)] {
		if mvm.ValidateInstanceID(p.InstanceID) == nil && a.peerGone(g.Tenant, p) {
			a.log.Info("gateway had connections to an instance that is gone", "gateway", id, "instance", p.InstanceID)
			a.tellGone(ctx, id, guestproto.Fence{InstanceID: p.InstanceID, Boot: p.Boot, Gone: true})
		}
	}
}

// peerGone reports whether the memory of that boot of the tenant's instance is lost.
func (a *Agent) peerGone(tenant string, p guestproto.Peer) bool {
	var i mvm.Instance
	err := a.store.View(func(tx *store.Tx) (err error) {
		i, err = tx.Instance(p.InstanceID)
		return err
	})
	switch {
	case mvm.IsKind(err, mvm.KindNotFound), err == nil && i.Tenant != tenant:
		return true
	case err != nil, p.Boot == 0, a.unsettled.Has(i.ID):
		return false // not known
	case p.Boot < i.DiskGeneration:
		return true
	case i.State == mvm.StateSleeping:
		return false
	}
	l := a.liveOf(i.ID)
	if l == nil {
		return true
	}
	select {
	case <-l.vmm.Done():
		return true
	default:
		return false
	}
}

// doubtPeers has every gateway asked: what ended while the agent was away, it could not
// tell them.
func (a *Agent) doubtPeers() {
	all, err := a.Instances(a.ctx, mvm.Address{})
	if err != nil {
		a.log.Error("list gateways", "error", err)
	}
	for _, g := range all {
		if g.Role == mvm.RoleGateway {
			a.unreconciled.Set(g.ID, true)
		}
	}
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

// report takes a gateway's report; counts says whether what is said of an instance does:
// it is the gateway's tenant's, and has not booted since.
func (t *activityTable) report(gateway string, acts []guestproto.Activity, counts func(guestproto.Activity) bool) {
	if len(acts) > maxActivity {
		acts = acts[:maxActivity]
	}
	for _, act := range acts {
		if mvm.ValidateInstanceID(act.InstanceID) != nil || !counts(act) {
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

// over notes that every connection to the instance has ended.
func (t *activityTable) over(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for g, act := range t.by[id] {
		act.Connections, act.Open = 0, 0
		t.by[id][g] = act
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
