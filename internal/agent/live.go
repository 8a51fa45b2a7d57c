package agent

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/driver"
	"mvm/internal/folders"
	"mvm/internal/guestlog"
	"mvm/internal/guestproto"
	"mvm/internal/ingress"
)

// live is a VMM that runs, with what the agent holds for it.
type live struct {
	vmm  driver.VMM
	host *ingress.Listener
	logs *guestlog.Collector // nil: the guest's log is not kept

	// expected is closed when the agent itself ends the VMM or lets go of it, so that
	// the watcher does not take it for a crash.
	expected chan struct{}
	once     sync.Once
	watched  chan struct{} // closed when the watcher is gone
}

// runs reports whether there is a VMM and it has not ended.
func (l *live) runs() bool {
	if l == nil {
		return false
	}
	select {
	case <-l.vmm.Done():
		return false
	default:
		return true
	}
}

// died reports whether there was a VMM and it ended, though the agent did not end it.
func (l *live) died() bool {
	if l == nil || l.runs() {
		return false
	}
	select {
	case <-l.expected:
		return false
	default:
		return true
	}
}

// expect says that the VMM's end is the agent's doing.
func (l *live) expect() { l.once.Do(func() { close(l.expected) }) }

// detach lets go of a VMM that goes on running.
func (l *live) detach() error {
	l.expect()
	<-l.watched
	l.logs.End(0)
	return errors.Join(l.host.Close(), l.vmm.Close())
}

// adopt takes a VMM under watch.
func (a *Agent) adopt(i mvm.Instance, vmm driver.VMM, host *ingress.Listener) {
	l := &live{vmm: vmm, host: host, logs: a.collectLogs(i, vmm), expected: make(chan struct{}), watched: make(chan struct{})}
	a.mu.Lock()
	a.live[i.ID] = l
	a.mu.Unlock()
	a.idle.Poke()
	if !a.goTracked(func() { a.watch(i.ID, l) }) {
		close(l.watched)
	}
}

// watch waits for the VMM's end and has the instance stopped when nobody asked for it.
func (a *Agent) watch(id string, l *live) {
	defer close(l.watched)
	select {
	case <-l.expected:
		return
	case <-a.ctx.Done():
		return
	case <-l.vmm.Done():
	}
	select {
	case <-l.expected:
		return
	default:
	}
	if a.ctx.Err() != nil {
		return
	}
	why := howEnded(l.vmm.Exit())
	a.log.Warn("vmm ended by itself", "instance", id, "why", why)
	if i, err := a.Instance(a.ctx, mvm.Address{Instance: id}); err == nil {
		a.reconciler.Lost(i)
		a.ingress.GoneSoon(i)
	}
	if _, err := a.enqueue(id, request{op: mvm.OpStop, by: byAgent(), why: why, ended: l}); err != nil {
		a.log.Error("stop instance after its vmm ended", "instance", id, "error", err)
	}
}

// howEnded says how a VMM ended that nobody ended.
func howEnded(e driver.Exit) string {
	switch {
	case e.Panic != "":
		return "its guest's kernel panicked: " + display.Clip(e.Panic)
	case e.Guest && e.Detail == "guest-reset":
		return "its guest reset itself"
	case e.Guest:
		return "its guest powered itself off"
	}
	return "its VMM ended: " + e.Detail
}

// liveOf returns the running VMM of an instance, nil when there is none.
func (a *Agent) liveOf(id string) *live {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.live[id]
}

// release ends the instance's VMM, in whatever state, and everything the agent
// holds for it. It can run twice.
func (a *Agent) release(ctx context.Context, i mvm.Instance) error {
	a.mu.Lock()
	l := a.live[i.ID]
	delete(a.live, i.ID)
	a.mu.Unlock()
	var errs []error
	if l != nil {
		l.expect()
		<-l.watched
		errs = append(errs, l.vmm.Kill(ctx))
		l.logs.End(lastWords)
		errs = append(errs, l.vmm.Close())
	}
	if _, ok := a.absent.Load(i.ID); !ok {
		errs = append(errs, a.opt.Driver.Destroy(ctx, a.baseSpec(i)))
	}
	if l != nil {
		errs = append(errs, l.host.Close())
	}
	a.ingress.VMMEnded(i.ID)
	if err := errors.Join(errs...); err != nil {
		return mvm.Errorf(mvm.KindOf(err), "end VMM of %s: %w", i.ID, err)
	}
	return a.folders.RemoveRunDir(i.ID)
}

// baseSpec is the part of a Spec that finds an instance's VMM.
func (a *Agent) baseSpec(i mvm.Instance) driver.Spec {
	dir := a.folders.Dir(i.ID)
	return driver.Spec{ID: i.ID, Dir: dir, RunDir: a.folders.RunDir(i.ID), UID: i.UID, GID: i.UID, Cgroup: "mvm-" + i.ID,
		VCPUs: i.Res.VCPUs, MemMiB: i.Res.MemMiB, MAC: i.MAC,
		Memory: a.folders.Snapshots(i).Memory(), Console: filepath.Join(dir, folders.Console)}
}

// launch makes the VMM by start (a Start of the driver, when it boots, or a Restore) with
// its host listener and TAP, and takes it under watch. After an error nothing is left.
func (a *Agent) launch(ctx context.Context, i mvm.Instance, boots bool, start func(driver.Spec) (driver.VMM, error)) error {
	spec, err := a.openSpec(ctx, i, boots)
	if err != nil {
		return err
	}
	defer closeOpened(spec)
	a.absent.Delete(i.ID)
	if err := a.folders.MakeRunDir(i); err != nil {
		return err
	}
	host, err := a.ingress.Listen(i)
	if err != nil {
		return err
	}
	tap, err := a.opt.Network.OpenTAP(ctx, i.Tenant, i.ID, i.UID)
	if err != nil {
		return errors.Join(mvm.Errorf(mvm.KindOf(err), "open TAP: %w", err), host.Close())
	}
	spec.TAP = tap
	vmm, err := start(spec)
	err = errors.Join(err, tap.Close())
	if err != nil {
		return errors.Join(err, host.Close())
	}
	a.adopt(i, vmm, host)
	return nil
}

// dialGuest opens a stream to a port of the instance's guest.
func (a *Agent) dialGuest(ctx context.Context, id string, port uint32) (net.Conn, error) {
	l := a.liveOf(id)
	if l == nil {
		return nil, mvm.Errorf(mvm.KindState, "reach guest of %s: it has no VMM", id)
	}
	if why := a.stalled(id); why != "" {
		return nil, mvm.Errorf(mvm.KindUnavailable, "reach guest of %s: %w", id, mvm.HostFault(errors.New(why)))
	}
	c, err := l.vmm.Dial(ctx, port)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "reach guest of %s: %w", id, err)
	}
	return c, nil
}

// ask sends one request to the guest agent and reads its answer, within the
// deadline of ctx or the default.
func (a *Agent) ask(ctx context.Context, id string, req guestproto.Request) (guestproto.Response, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.opt.Timeouts.Call)
		defer cancel()
	}
	c, err := a.dialGuest(ctx, id, guestproto.GuestPort)
	if err != nil {
		return guestproto.Response{}, err
	}
	defer c.Close()
	resp, err := guestproto.Call(ctx, c, req.WithID(mvm.RequestFrom(ctx)))
	if err != nil {
		return resp, mvm.Errorf(mvm.KindUnavailable, "ask guest of %s: %w", id, err)
	}
	if resp.Error != nil {
		return resp, mvm.Errorf(mvm.KindUnavailable, "guest of %s refused: %s", id, display.Clip(resp.Error.Message))
	}
	return resp, nil
}
