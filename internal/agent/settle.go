package agent

import (
	"context"
	"errors"
	"time"

	"mvm"
	"mvm/internal/store"
)

// opSettle finishes or takes back what an operation before it left half done, and
// does nothing else. The agent asks for it, and nobody else.
const opSettle mvm.OpKind = "settle"

// Pauses between looks at what was left half done: by operations, and by destructions
// of tenants and pools.
const (
	settleEvery  = 5 * time.Second
	destroyEvery = 30 * time.Second
)

// settleLost brings an instance to rest that the operation can't go on from: its VMM
// is gone, though its record has one, or an operation before it failed half-way.
func (o *operation) settleLost(ctx context.Context) error {
	var cut mvm.OpKind
	if o.inst.Op != nil {
		cut = o.inst.Op.Kind
	}
	holds := o.inst.State.HoldsMemory()
	switch {
	case o.kind == mvm.OpDestroy:
		return nil
	case cut == mvm.OpDestroy && o.kind == opSettle:
		return o.destroy(ctx)
	case cut == mvm.OpDestroy:
		return mvm.Errorf(mvm.KindState, "%s %s: its destruction has begun", o.kind, o.inst.Address()).
			WithFix("finish it with `mvm instance destroy %s`", o.inst.ID)
	case o.kind == mvm.OpStop, o.kind == mvm.OpRestart && (holds || o.inst.State == mvm.StateSleeping):
		return nil
	case cut == mvm.OpRestart && o.kind == opSettle:
		return o.restart(ctx)
	case cut == mvm.OpStop, cut == mvm.OpRestart:
		return o.stopFirst(ctx)
	}
	if holds && o.lost() {
		there, err := o.takeUp(ctx)
		if err != nil {
			return err
		}
		if !there {
			return o.stopFirst(ctx)
		}
	}
	return o.settleCut(ctx, cut)
}

// settleCut finishes or takes back an operation that was cut off.
func (o *operation) settleCut(ctx context.Context, cut mvm.OpKind) error {
	switch {
	case cut == mvm.OpRestore:
		return o.finishBringBack(ctx)
	case cut == mvm.OpSleep && o.inst.State == mvm.StateSleeping:
		return o.finishSleep(ctx)
	case cut != "" && o.inst.State.HoldsMemory():
		return errors.Join(o.a.sweepSnapshots(o.inst), o.goOn(ctx))
	case up(cut):
		if err := o.findVMM(ctx); err != nil {
			return err
		}
		if o.runsUngated(ctx) {
			return o.finishWake(ctx)
		}
		return o.giveUpVMM(ctx)
	}
	return nil
}

// findVMM takes up the VMM of a wake that was cut off after its snapshot was consumed,
// if there is one that could not be taken up before.
func (o *operation) findVMM(ctx context.Context) error {
	s := o.inst.Snapshot
	if o.a.liveOf(o.inst.ID) != nil || s == nil || !s.Consumed {
		return nil
	}
	_, _, err := o.a.readopt(ctx, o.inst)
	return err
}

// giveUpVMM ends what an operation that was cut off has of a VMM, and then forgets the
// operation: until it is gone it counts.
func (o *operation) giveUpVMM(ctx context.Context) error {
	if err := o.unconsume(ctx); err != nil {
		return err
	}
	if err := o.releaseVMM(ctx); err != nil {
		return err
	}
	return o.save(func(i *mvm.Instance) { i.Op = nil })
}

// runsUngated reports that the vCPUs run from the instance's snapshot, and only its
// gate was not opened yet.
func (o *operation) runsUngated(ctx context.Context) bool {
	l := o.a.liveOf(o.inst.ID)
	if l == nil || o.inst.State != mvm.StateSleeping || o.inst.Snapshot == nil || !o.inst.Snapshot.Consumed {
		return false
	}
	paused, err := l.vmm.Paused(ctx)
	return err == nil && !paused
}

// finishWake opens the gate of a guest that runs from its snapshot. Where the guest does
// not take part it is given up, and the next wake boots it from its disks; a fault of the
// host leaves it as it is, for the next try.
func (o *operation) finishWake(ctx context.Context) error {
	o.bootWay, o.resumedAt = "warm", time.Time{}
	return o.run(ctx, mvm.OpWake, []step{
		{name: "vmm", do: func(context.Context) error { return nil }, undo: o.giveUpVMM},
		{name: "resumed", do: func(context.Context) error { return nil }, undo: o.keepGuest, holds: true},
		{name: "gate", do: o.wakeGate, forward: true},
		{name: "settle", do: o.settleGuest, forward: true},
		{name: "open", do: o.openAfterRestore, forward: true},
	})
}

// stopFirst stops what is left of the instance.
func (o *operation) stopFirst(ctx context.Context) error {
	o.log.Warn("stop what is left of the instance first", "op", o.kind, "state", o.inst.State)
	err := o.stop(ctx)
	o.reason = ""
	return err
}

// settleCreated makes the disks of an instance whose creation was cut off.
func (o *operation) settleCreated(ctx context.Context) error {
	if o.inst.Op != nil && o.inst.Op.Kind == mvm.OpCreate {
		return o.makeReady(ctx)
	}
	return nil
}

// takeUp takes up the instance's VMM that could not be taken up when the agent
// started, if it runs as the record says. An error says that the host could not do it.
func (o *operation) takeUp(ctx context.Context) (bool, error) {
	if o.a.liveOf(o.inst.ID) != nil {
		return false, nil // it was, and has ended
	}
	alive, paused, err := o.a.readopt(ctx, o.inst)
	if !alive {
		return false, err
	}
	if o.inst.State == mvm.StateRunning {
		o.a.pending.set(o.inst.ID, true) // a change may have been stored and not delivered
	}
	if paused == (o.inst.State == mvm.StateWarm) {
		return true, nil
	}
	if err = o.goOn(ctx); err == nil || !guestFault(err) {
		return true, err
	}
	return false, nil
}

// keepSettled finishes what failing operations left half done, for as long as the
// agent runs.
func (a *Agent) keepSettled() {
	a.every(settleEvery, func() {
		for _, id := range a.unsettled.all() {
			if n, _ := a.Queued(id); n > 0 {
				continue
			}
			a.unsettled.set(id, false) // it comes back when that fails, too
			if _, err := a.enqueue(id, request{op: opSettle, by: byAgent(), why: "an operation was left half done"}); err != nil {
				return
			}
		}
	})
}

// keepDestroying goes on with destructions of tenants and pools that failed half-way
// or were cut off.
func (a *Agent) keepDestroying() {
	finish := func() {
		for _, d := range a.doomed() {
			a.finishDestroy(d)
		}
	}
	finish()
	a.every(destroyEvery, finish)
}

// every calls fn at the interval until the agent closes.
func (a *Agent) every(d time.Duration, fn func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-a.ctx.Done():
		}
		if a.ctx.Err() != nil {
			return
		}
		fn()
	}
}

// doomed are the tenants and pools whose destruction has begun.
func (a *Agent) doomed() (out []mvm.Address) {
	err := a.store.View(func(tx *store.Tx) error {
		tenants, err := tx.Tenants()
		if err != nil {
			return err
		}
		pools, err := tx.Pools("")
		if err != nil {
			return err
		}
		gone := map[string]bool{}
		for _, t := range tenants {
			if t.Destroying {
				gone[t.ID] = true
				out = append(out, mvm.Address{Tenant: t.ID})
			}
		}
		for _, p := range pools {
			if p.Destroying && !gone[p.Tenant] {
				out = append(out, p.Address())
			}
		}
		return nil
	})
	if err != nil {
		a.log.Error("list what is being destroyed", "error", err)
	}
	return out
}

// finishDestroy goes on with a destruction that was cut off, unless it is done by now.
func (a *Agent) finishDestroy(what mvm.Address) {
	ctx := mvm.WithAsker(a.ctx, byAgent())
	var err error
	if what.Pool == "" {
		err = a.finishTenant(ctx, what.Tenant)
	} else {
		err = a.finishPool(ctx, what)
	}
	if err != nil && !mvm.IsKind(err, mvm.KindNotFound) && a.ctx.Err() == nil {
		a.log.Error("finish a destruction that was cut off", "what", what.String(), "error", err)
	}
}

// finishTenant goes on with a tenant. A new one of that name is let be.
func (a *Agent) finishTenant(ctx context.Context, id string) error {
	defer a.admin.lock(id)()
	t, _, err := a.Tenant(ctx, id)
	if err != nil || !t.Destroying {
		return err
	}
	return a.destroyTenant(ctx, id, nil)
}

// finishPool goes on with a pool. A new one of that name is let be.
func (a *Agent) finishPool(ctx context.Context, what mvm.Address) error {
	defer a.admin.lock(what.Tenant)()
	p, err := a.Pool(ctx, what.Tenant, what.Pool)
	if err != nil || !p.Destroying {
		return err
	}
	return a.destroyPool(ctx, what.Tenant, what.Pool, nil)
}
