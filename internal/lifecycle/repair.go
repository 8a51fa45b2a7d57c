package lifecycle

import (
	"context"
	"errors"
	"time"

	"mvm"
	"mvm/internal/repair"
	"mvm/internal/wait"
)

// opRepair finishes or takes back what an operation before it left half done, and
// does nothing else. The agent asks for it, and nobody else.
const opRepair mvm.OpKind = "repair"

// repairEvery is the pause between looks at what operations left half done.
const repairEvery = 5 * time.Second

// repair brings an instance to where the operation can go on from: its VMM is gone, though
// its record has one, or an operation before it failed half-way. What is to be done is a
// line of the table in package repair.
func (o *operation) repair(ctx context.Context) error {
	f := repair.FoundOf(o.inst)
	switch {
	case o.kind == mvm.OpDestroy:
		return nil
	case f.Cut == mvm.OpDestroy && o.kind != opRepair:
		return mvm.Errorf(mvm.KindState, "%s %s: its destruction has begun", o.kind, o.inst.Address()).
			WithFix("finish it with `mvm instance destroy %s`", o.inst.ID)
	case o.kind == mvm.OpStop, o.kind == mvm.OpRestart && (f.State.HoldsMemory() || f.State == mvm.StateSleeping):
		return nil // it ends all that is left
	case f.Cut == "" && !f.State.HoldsMemory():
		return nil // at rest
	}
	adopted, err := o.look(ctx, &f)
	if err != nil {
		return err
	}
	switch v := repair.Decide(f); v.Do {
	case repair.Finish:
		return o.finishCut(ctx, f.Cut)
	case repair.TakeBack:
		return o.finishBringBack(ctx)
	case repair.Stop:
		return o.stopFirst(ctx)
	case repair.Conform:
		swept, err := o.l.opt.Folders.Snapshots(o.inst).KeepOwn(o.inst), o.conform(ctx)
		if adopted && f.Paused != (f.State == mvm.StateWarm) && guestFault(err) {
			return errors.Join(swept, o.stopFirst(ctx))
		}
		return errors.Join(swept, err)
	case repair.OpenGate:
		return o.finishWake(ctx)
	case repair.Release, repair.ReleaseWhole:
		return o.giveUpVMM(ctx)
	}
	return nil
}

// finishCut finishes an operation that only goes forward. Where another is asked for, what
// is to come up again is only stopped, and a creation is finished on its way.
func (o *operation) finishCut(ctx context.Context, cut mvm.OpKind) error {
	switch {
	case cut == mvm.OpDestroy:
		return o.destroy(ctx)
	case cut == mvm.OpRestart && o.kind == opRepair:
		return o.restart(ctx)
	case repair.OnlyForward(cut):
		return o.stopFirst(ctx)
	case cut == mvm.OpSleep:
		return o.finishSleep(ctx)
	}
	return nil
}

// look finds the VMM of the instance and says in f how it is. One that could not be taken up
// when the agent started is taken up now. A VMM that is followed is as its record says, but
// for the vCPUs of a wake that was cut off, which are asked for. An error says that the host
// could not do it.
func (o *operation) look(ctx context.Context, f *repair.Found) (adopted bool, err error) {
	switch {
	case repair.OnlyForward(f.Cut):
	case f.State.HoldsMemory():
		if f.Alive, f.Paused = true, f.State == mvm.StateWarm; o.lost() {
			adopted = true
			f.Alive, f.Paused, err = o.takeUp(ctx)
		}
	case f.Cut.Rises() && f.State == mvm.StateSleeping && f.Consumed:
		if o.l.opt.VMMs.Of(o.inst.ID) == nil {
			if _, _, err := o.l.opt.VMMs.TakeUp(ctx, o.inst); err != nil {
				return false, err
			}
		}
		f.Alive, f.Paused, err = o.vCPUs(ctx)
	}
	return adopted, err
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

// repairCreated makes the disks of an instance whose creation was cut off.
func (o *operation) repairCreated(ctx context.Context) error {
	if o.inst.Op != nil && o.inst.Op.Kind == mvm.OpCreate {
		return o.makeReady(ctx)
	}
	return nil
}

// takeUp takes up the instance's VMM that could not be taken up when the agent started.
func (o *operation) takeUp(ctx context.Context) (alive, paused bool, err error) {
	if o.l.opt.VMMs.Of(o.inst.ID) != nil {
		return false, false, nil // it was, and has ended
	}
	alive, paused, err = o.l.opt.VMMs.TakeUp(ctx, o.inst)
	if alive && o.inst.State == mvm.StateRunning {
		o.l.opt.Deliver.Owe(o.inst.ID) // a change may have been stored and not delivered
	}
	return alive, paused, err
}

// Run finishes what failing operations left half done, and sets clocks that wait for an
// operation to end, until ctx ends.
func (l *Lifecycle) Run(ctx context.Context) {
	wait.Every(ctx, repairEvery, func() {
		for _, id := range l.halfDone.All() {
			if n, _ := l.Queued(id); n > 0 {
				continue
			}
			l.halfDone.Set(id, false) // it comes back when that fails, too
			if _, err := l.Enqueue(id, Request{Op: opRepair, By: byAgent(), Why: "an operation was left half done"}); err != nil {
				return
			}
		}
		l.rightClocks()
	})
}

// HalfDone says that the instance may have been left half done.
func (l *Lifecycle) HalfDone(id string) { l.halfDone.Set(id, true) }

// IsHalfDone reports that.
func (l *Lifecycle) IsHalfDone(id string) bool { return l.halfDone.Has(id) }
