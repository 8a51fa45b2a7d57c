package ingress

import (
	"context"
	"sync"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// fenceTimeout bounds what a gateway may take to hear of a sleep.
const fenceTimeout = 3 * time.Second

// Use says who uses an instance.
type Use struct {
	// What the gateways say.
	Active  int       // requests under way, and streams that carried bytes just now
	Open    int       // with streams that are quiet
	Last    time.Time // last bytes
	Gateway string    // the one with the most open; "": none

	// Of Ingress.Use only.
	Execs     int // commands that run in it
	Published int // of a gateway: connections to its published ports
}

// Fence tells the tenant's running gateways that the instance is going
// away, and returns what they have under way to it. A gateway that
// does not answer counts as having none: it can't send anything either without
// asking, since the instance's port is gone.
func (in *Ingress) Fence(ctx context.Context, i mvm.Instance) (use Use) {
	ctx, cancel := context.WithTimeout(ctx, fenceTimeout)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, g := range in.liveGateways(i.Tenant) {
		if g.ID == i.ID {
			continue
		}
		wg.Go(func() {
			resp, err := in.opt.Instances.Ask(ctx, g.ID, guestproto.Request{Fence: &guestproto.Fence{InstanceID: i.ID, IP: i.IP}})
			if err != nil || resp.FenceAck == nil {
				in.opt.Log.Warn("fence at gateway", "gateway", g.ID, "instance", i.ID, "error", err)
				return
			}
			act := guestproto.Activity{InstanceID: i.ID, Connections: resp.FenceAck.ActiveRequests, Open: resp.FenceAck.Open,
				LastActive: resp.FenceAck.LastActive}
			in.activity.report(g.ID, []guestproto.Activity{act}, func(guestproto.Activity) bool { return true })
			mu.Lock()
			defer mu.Unlock()
			use.Active += max(0, act.Connections)
			use.Open += max(0, act.Connections, act.Open)
			if act.LastActive.After(use.Last) {
				use.Last = act.LastActive
			}
		})
	}
	wg.Wait()
	return use
}

// Gone ends every connection to the instance: the memory of its boots up to the
// present one is lost. The tenant's gateways have been told when it returns, but for those
// that do not answer: they are asked later, see RetryPeers.
func (in *Ingress) Gone(ctx context.Context, i mvm.Instance) {
	in.connectionsOver(i)
	in.tellGateways(ctx, i)
}

// GoneSoon is Gone, but for that it does not wait for gateways.
func (in *Ingress) GoneSoon(i mvm.Instance) {
	in.connectionsOver(i)
	in.group.Go(func() { in.tellGateways(in.life, i) })
}

// connectionsOver ends the connections that the host itself has to the instance, and
// counts those of gateways no more.
func (in *Ingress) connectionsOver(i mvm.Instance) {
	in.activity.over(i.ID)
	in.forwards.cut(i.ID)
}

func (in *Ingress) tellGateways(ctx context.Context, i mvm.Instance) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fenceTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, g := range in.liveGateways(i.Tenant) {
		if g.ID != i.ID {
			wg.Go(func() {
				in.tellGone(ctx, g.ID, guestproto.Fence{InstanceID: i.ID, IP: i.IP, Boot: i.DiskGeneration, Gone: true})
			})
		}
	}
	wg.Wait()
}

// tellGone tells one gateway.
func (in *Ingress) tellGone(ctx context.Context, gateway string, f guestproto.Fence) {
	resp, err := in.opt.Instances.Ask(ctx, gateway, guestproto.Request{Fence: &f})
	if err != nil && resp.Error == nil {
		in.opt.Log.Warn("tell gateway that an instance is gone", "gateway", gateway, "instance", f.InstanceID, "error", err)
		in.unreconciled.Set(gateway, true)
	}
}

// CheckPeers asks a gateway to which instances it has connections, and tells it which of
// them are gone. It is for a gateway that may have missed that: it slept, or did not
// answer, or the agent was away.
func (in *Ingress) CheckPeers(id string) {
	var g mvm.Instance
	err := in.opt.Store.View(func(tx *store.Tx) (err error) {
		g, err = tx.Instance(id)
		return err
	})
	in.unreconciled.Set(id, false) // before it is asked: what it misses after that sets it again
	if err != nil || g.Role != mvm.RoleGateway || g.State != mvm.StateRunning || !in.opt.Instances.HasVMM(id) {
		return // when it wakes it is asked
	}
	ctx, cancel := context.WithTimeout(in.life, fenceTimeout)
	defer cancel()
	resp, err := in.opt.Instances.Ask(ctx, id, guestproto.Request{Peers: true})
	if err != nil {
		if resp.Error == nil && in.life.Err() == nil { // and not a guest of an earlier version
			in.opt.Log.Warn("ask gateway for its connections", "gateway", id, "error", err)
			in.unreconciled.Set(id, true)
		}
		return
	}
	if resp.Peers == nil {
		return
	}
	peers := resp.Peers.Instances
	for _, p := range peers[:min(len(peers), guestproto.MaxPeers)] {
		if mvm.ValidateInstanceID(p.InstanceID) == nil && in.peerGone(g.Tenant, p) {
			in.opt.Log.Info("gateway had connections to an instance that is gone", "gateway", id, "instance", p.InstanceID)
			in.tellGone(ctx, id, guestproto.Fence{InstanceID: p.InstanceID, Boot: p.Boot, Gone: true})
		}
	}
}

// peerGone reports whether the memory of that boot of the tenant's instance is lost.
func (in *Ingress) peerGone(tenant string, p guestproto.Peer) bool {
	var i mvm.Instance
	err := in.opt.Store.View(func(tx *store.Tx) (err error) {
		i, err = tx.Instance(p.InstanceID)
		return err
	})
	switch {
	case mvm.IsKind(err, mvm.KindNotFound), err == nil && i.Tenant != tenant:
		return true
	case err != nil, p.Boot == 0, in.opt.Instances.HalfDone(i.ID):
		return false // not known
	case p.Boot < i.DiskGeneration:
		return true
	case i.State == mvm.StateSleeping:
		return false
	}
	return !in.opt.Instances.Lives(i.ID)
}

// DoubtPeers has every gateway asked: what ended while the agent was away, it could not
// tell them.
func (in *Ingress) DoubtPeers() {
	var all []mvm.Instance
	err := in.opt.Store.View(func(tx *store.Tx) (err error) {
		all, err = tx.Instances("", "")
		return err
	})
	if err != nil {
		in.opt.Log.Error("list gateways", "error", err)
	}
	for _, g := range all {
		if g.Role == mvm.RoleGateway {
			in.unreconciled.Set(g.ID, true)
		}
	}
}

// Doubt has the gateway asked at once to whom it has connections, and again where it does
// not answer.
func (in *Ingress) Doubt(gateway string) {
	in.unreconciled.Set(gateway, true)
	in.group.Go(func() { in.CheckPeers(gateway) })
}

// maxPeerChecks bounds the gateways that are asked at once.
const maxPeerChecks = 16

// RetryPeers asks the gateways again that may have missed the end of an instance.
func (in *Ingress) RetryPeers() { wait.Each(in.unreconciled.All(), maxPeerChecks, in.CheckPeers) }

// VMMEnded notes that the VMM of the instance ended: a gateway's connections did with it.
func (in *Ingress) VMMEnded(id string) { in.activity.gone(id) }

// Forget drops what is known of an instance that is gone.
func (in *Ingress) Forget(id string) { in.activity.forget(id) }

// Use says who uses the instance now.
func (in *Ingress) Use(id string) Use {
	use, busiest := in.activity.of(id)
	use.Gateway, use.Execs, use.Published = busiest, in.execs.of(id), in.published.of(id)
	return use
}

// liveGateways are the tenant's gateway instances that run.
func (in *Ingress) liveGateways(tenant string) (out []mvm.Instance) {
	err := in.opt.Store.View(func(tx *store.Tx) error {
		all, err := tx.Instances(tenant, "")
		for _, i := range all {
			if i.Role == mvm.RoleGateway && i.State == mvm.StateRunning && in.opt.Instances.HasVMM(i.ID) {
				out = append(out, i)
			}
		}
		return err
	})
	if err != nil {
		in.opt.Log.Error("list gateways", "tenant", tenant, "error", err)
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
func (t *activityTable) of(id string) (use Use, busiest string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	most := 0
	for g, act := range t.by[id] {
		use.Active += act.Connections
		use.Open += act.Open
		if act.LastActive.After(use.Last) {
			use.Last = act.LastActive
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
