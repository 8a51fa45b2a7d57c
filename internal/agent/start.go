package agent

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/driver"
	"mvm/internal/folders"
	"mvm/internal/guestproto"
	"mvm/internal/snapshot"
	"mvm/internal/store"
	"mvm/internal/sys"
	"mvm/internal/wait"
)

// The pauses between tries to reach a guest that boots, and between looks at its
// services.
const (
	bootPoll  = 50 * time.Millisecond
	readyPoll = 250 * time.Millisecond
)

// makeReady makes what an instance has on disk: created -> ready.
func (o *operation) makeReady(ctx context.Context) error {
	if o.inst.State != mvm.StateCreated {
		return nil
	}
	err := o.run(ctx, mvm.OpCreate, []step{
		{name: "network", do: o.a.networks.Apply},
		{name: "disks", do: o.makeDisks},
	})
	if err != nil {
		return err
	}
	return o.save(func(i *mvm.Instance) { i.State, i.Op, i.Changed = mvm.StateReady, nil, time.Now() })
}

// makeDisks makes the instance's folder and data disk, durable, unless they are there
// whole.
func (o *operation) makeDisks(ctx context.Context) error {
	return mvm.Explain("make folder of "+o.inst.ID, sys.InFolder(o.a.folders.Root(), func(root *sys.Folder) error {
		d, err := root.MakeSub(o.inst.ID)
		if err != nil {
			return err
		}
		defer d.Close()
		return errors.Join(snapshot.Room(d), o.makeDataDisk(ctx, d), d.Sync(), root.Sync())
	}))
}

// makeDataDisk makes the data disk in the instance's folder, whole or not at all. The
// folder is the caller's to sync.
func (o *operation) makeDataDisk(ctx context.Context, d *sys.Folder) error {
	if o.inst.Res.DataDiskMiB == 0 {
		return nil
	}
	if _, _, err := d.Size(folders.DataDisk); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := d.Create(folders.NewDisk)
	if err != nil {
		return err
	}
	err = o.a.opt.MakeDisk(ctx, f, o.inst.Res.DataDiskMiB)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, d.Remove(folders.NewDisk))
	}
	return d.Rename(folders.NewDisk, d, folders.DataDisk)
}

// start boots the instance from its disks. why is recorded.
func (o *operation) start(ctx context.Context, why string) error {
	o.bootWay, o.snapBytes = "cold", 0
	if o.reason == "" {
		o.reason = why
	}
	err := o.run(ctx, mvm.OpStart, []step{
		{name: "renew", do: o.renew},
		{name: "quota", do: o.admit, undo: o.forget},
		{name: "network", do: o.a.networks.Apply},
		{name: "disk", do: o.sizeDisk},
		{name: "generation", do: o.nextDiskGeneration, undo: o.sameDiskGeneration},
		{name: "vmm", do: o.startVMM, undo: o.releaseVMM},
		{name: "gate", do: o.bootGate},
		{name: "open", do: func(ctx context.Context) error { return o.completeRunning(ctx, mvm.InstanceStarted) }},
	})
	if err != nil {
		return err
	}
	if err := o.waitReady(ctx); err != nil {
		return err
	}
	o.restoreIntegrations() // the guest has begun with it: this waits for it
	return nil
}

// completeRunning records that the instance runs and lets traffic in. Configuration and
// secrets that changed since the gate read them are given to it now: whoever changed
// them saw an instance that did not run yet.
func (o *operation) completeRunning(ctx context.Context, act mvm.Action) error {
	gen, suspends := o.inst.SecretsGeneration, o.inst.Suspends
	err := o.complete(mvm.StateRunning, act, func(i *mvm.Instance) {
		i.SecretsGeneration, i.Suspends = gen, suspends
		o.noteSettled(i)
		if o.bootWay == "cold" {
			i.Ready = false
		}
		i.Snapshot = nil
	})
	if err != nil {
		return err
	}
	o.followLogs()
	o.a.gatewayUp(o.inst)
	if o.inst.Role == mvm.RoleGateway && o.bootWay == "warm" {
		id := o.inst.ID
		o.a.ingress.Doubt(id)
	}
	cfg, err := o.a.deliver.Config(o.inst, "update")
	if err == nil && !bytes.Equal(cfg.Digest, o.digest) {
		err = o.a.deliver.Push(ctx, o.inst)
	}
	if err != nil {
		o.log.Warn("deliver what changed during the gate", "error", err)
	}
	return nil
}

// admit makes the intent durable within the quota.
func (o *operation) admit(context.Context) error {
	err := o.intend(o.kind, func(tx *store.Tx, i mvm.Instance) error { return o.a.fleet.AdmitRunning(tx, i) })
	if mvm.IsKind(err, mvm.KindQuota) {
		o.a.journal.Record(o.event(mvm.QuotaExceeded, err.Error()))
	}
	return err
}

// nextDiskGeneration counts that the disks are about to change, so that no older
// snapshot fits them.
//
// It also is the number of the boot, by which gateways tell connections to this one from
// those to boots before it: what is left of these is over.
func (o *operation) nextDiskGeneration(context.Context) error {
	former := o.inst
	if err := o.save(func(i *mvm.Instance) { i.DiskGeneration++ }); err != nil || former.DiskGeneration == 0 {
		return err
	}
	o.a.ingress.GoneSoon(former)
	return nil
}

// sameDiskGeneration has snapshots that were set aside fit the disks as before, where
// there was no VMM for want of something: the disks are as they were.
func (o *operation) sameDiskGeneration(context.Context) error {
	if _, lacks := sys.Fault(o.failure); !lacks || o.booted || len(o.inst.SetAside) == 0 {
		return nil
	}
	return o.save(func(i *mvm.Instance) {
		i.SetAside = slices.Clone(i.SetAside)
		for n, s := range i.SetAside {
			if s.Snapshot.DiskGeneration == i.DiskGeneration-1 {
				i.SetAside[n].Snapshot.DiskGeneration = i.DiskGeneration
			}
		}
	})
}

func (o *operation) startVMM(ctx context.Context) error {
	o.progress("starting")
	err := o.a.folders.Snapshots(o.inst).DropMemory()
	if err != nil {
		return err
	}
	err = o.a.live.Launch(ctx, o.inst, true, func(s driver.Spec) (driver.VMM, error) { return o.a.opt.Driver.Start(ctx, s) })
	if err == nil {
		o.booted = true
		o.startedVMM(ctx)
	}
	return err
}

func (o *operation) releaseVMM(ctx context.Context) error { return o.a.live.Release(ctx, o.inst) }

// bootGate waits until the guest agent of a booting guest answers, and configures it.
func (o *operation) bootGate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, o.a.opt.Timeouts.Boot)
	defer cancel()
	l := o.a.live.Of(o.inst.ID)
	for {
		err := o.tryBootGate(ctx)
		if err == nil {
			return nil
		}
		switch wait.For(ctx, l.Driver().Done(), bootPoll) {
		case wait.Gone:
			return mvm.Errorf(mvm.KindUnavailable, "boot guest: %s%s", howEnded(l.Driver().Exit()), display.QuoteLog(o.a.session.LastConsole(o.inst.ID))).
				WithFix("see `mvm logs --console %s`", o.inst.ID)
		case wait.Canceled:
			return mvm.Errorf(mvm.KindTimeout, "boot guest: it did not answer within %s: %w", o.a.opt.Timeouts.Boot, err).
				WithFix("see `mvm logs --console %s`", o.inst.ID)
		}
	}
}

func (o *operation) tryBootGate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, o.a.opt.Timeouts.Gate)
	defer cancel()
	return o.gate(ctx, "boot")
}

// waitReady waits until every service of a running instance is ready. The instance
// stays running when they do not become so: its record says what is wrong.
func (o *operation) waitReady(ctx context.Context) error {
	if o.inst.Ready {
		return nil
	}
	o.job.waiting.Store(true)
	if opened := o.job.req.opened; opened != nil {
		opened()
	}
	defer o.job.waiting.Store(false)
	ctx, cancel := context.WithTimeoutCause(ctx, o.a.opt.Timeouts.Ready,
		mvm.Errorf(mvm.KindTimeout, "services were not ready within %s", o.a.opt.Timeouts.Ready))
	defer cancel()
	began, last := time.Now(), ""
	for {
		st, err := o.status(ctx)
		if err == nil && st.Ready {
			o.stages = append(o.stages, mvm.Stage{Name: "ready", Took: time.Since(began)})
			return o.recordReady()
		}
		if s := o.a.health.GaveUp(o.inst); err == nil && s != nil {
			return o.crashLoopError(ctx, *s)
		}
		if d := notReady(st, err); d != last {
			last = d
			o.progress("waiting for services: " + d)
		}
		switch wait.For(ctx, o.vmmGone(), readyPoll) {
		case wait.Gone:
			return o.endedError()
		case wait.Canceled:
			return o.notReadyError(ctx, last)
		}
	}
}

// endedError ends the wait for services whose machine is gone.
func (o *operation) endedError() error {
	how := "its VMM ended"
	if l := o.a.live.Of(o.inst.ID); l != nil {
		how = howEnded(l.Driver().Exit())
	}
	return mvm.Errorf(mvm.KindUnavailable, "wait for services of %s: %s%s", o.inst.ID, how, display.QuoteLog(o.a.session.LastConsole(o.inst.ID))).
		WithFix("see `mvm logs --console %s`", o.inst.ID)
}

// crashLoopError ends the wait for a service that does not come up.
func (o *operation) crashLoopError(ctx context.Context, s mvm.ServiceHealth) error {
	err := o.a.serviceError(ctx, "wait for services of "+o.inst.ID, o.inst, s)
	return &serviceFails{errors.Join(err, o.save(func(i *mvm.Instance) { i.Problem = display.Clip(display.WithoutLog(err.Text)) }))}
}

func (o *operation) notReadyError(ctx context.Context, last string) error {
	text, service := last, ""
	if s := o.a.health.Of(o.inst).Worst(); s != nil {
		service = s.Name
	}
	if mvm.IsKind(context.Cause(ctx), mvm.KindTimeout) && service != "" {
		text += display.QuoteLog(o.a.session.LastLines(o.job.ctx, o.inst.ID, service))
	}
	err := mvm.Errorf(mvm.KindOf(context.Cause(ctx)), "wait for services of %s: %w: %s", o.inst.ID, context.Cause(ctx), text).
		WithFix("see `mvm logs %s`", o.inst.ID)
	if mvm.IsKind(err, mvm.KindTimeout) {
		return errors.Join(err, o.save(func(i *mvm.Instance) { i.Problem = display.Clip(display.WithoutLog(err.Text)) }))
	}
	return err
}

// vmmGone is closed when the instance has no VMM any more.
func (o *operation) vmmGone() <-chan struct{} {
	if l := o.a.live.Of(o.inst.ID); l != nil {
		return l.Driver().Done()
	}
	gone := make(chan struct{})
	close(gone)
	return gone
}

func (o *operation) status(ctx context.Context) (guestproto.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, o.a.opt.Timeouts.Call)
	defer cancel()
	return o.a.health.Status(ctx, o.inst)
}

// notReady says which services are not ready, for people.
func notReady(st guestproto.Status, err error) string {
	if err != nil {
		return display.Clip(err.Error())
	}
	var parts []string
	for _, s := range st.Services {
		if s.State == "ready" || s.State == "done" {
			continue
		}
		d := s.Name + " is " + s.State
		if s.Detail != "" {
			d += " (" + s.Detail + ")"
		}
		parts = append(parts, d)
	}
	if len(parts) == 0 {
		parts = append(parts, st.Detail)
	}
	return display.Clip(strings.Join(parts, ", "))
}
