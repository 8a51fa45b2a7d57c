// Package live has the VMMs that run, and the way to their guests: it opens what a VMM gets,
// follows it until it ends, takes up those that outlived the agent, and asks guests. What a
// VMM is wanted for, and when, others know.
package live

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/folders"
	"mvm/internal/guestlog"
	"mvm/internal/image"
	"mvm/internal/wait"
)

// Ingress takes the host-bound requests of guests.
type Ingress interface {
	// Listen takes those of the instance, until it is closed.
	Listen(i mvm.Instance) (io.Closer, error)
	// VMMEnded says that there is nobody any more to ask.
	VMMEnded(id string)
}

// Networks have a TAP for each instance.
type Networks interface {
	OpenTAP(ctx context.Context, tenant, instance string, uid int) (*os.File, error)
}

// NamedTAPs have a TAP for each instance whose VMM opens it by name.
type NamedTAPs interface {
	KeepTAP(ctx context.Context, tenant, instance string, uid int) (name string, err error)
	DropTAP(ctx context.Context, tenant, instance string) error
}

// Images are checked when they are opened.
type Images interface {
	Get(digest string) (image.Image, error)
	Open(ctx context.Context, img image.Image, f image.File) (*os.File, error)
}

// Watcher is told of VMMs. Its methods return at once.
type Watcher interface {
	// Began says that there is one more, and Ended that one ended by itself.
	Began()
	Ended(id string, v *VMM)
}

// Options are what VMMs are made of. All but NamedTAPs are required.
type Options struct {
	Driver   driver.Driver
	Networks Networks
	// NamedTAPs are in place of the TAPs of Networks where the driver's VMMs open them by name;
	// nil elsewhere.
	NamedTAPs NamedTAPs
	Images    Images
	Ingress   Ingress
	Watcher   Watcher
	Folders   folders.Folders
	Log       *slog.Logger
	// Limits are those that the VMM of an instance should have. No field is 0.
	Limits func(i mvm.Instance) (mvm.Limits, error)
	// Call bounds one request to a guest.
	Call time.Duration
	// KeepLogs has what guests log kept on the host.
	KeepLogs bool
}

// VMMs are those of the host. All methods may be called concurrently, but for one instance
// Launch, Release and TakeUp only one after the other.
type VMMs struct {
	opt   Options
	life  context.Context
	group wait.Group

	mu sync.Mutex
	by map[string]*VMM // by instance id

	absent sync.Map // id -> true, while the agent starts: instances of which the driver has nothing
	silent silentVMMs

	owedMu sync.Mutex
	owed   map[string]mvm.Instance // by id: whose limits could not be changed
}

// New are no VMMs yet. They are followed until life ends.
func New(life context.Context, opt Options) *VMMs {
	return &VMMs{opt: opt, life: life, by: map[string]*VMM{}, owed: map[string]mvm.Instance{}}
}

// Close lets go of the VMMs, which go on running. Its life has to be over.
func (v *VMMs) Close() error {
	v.group.Close()
	v.mu.Lock()
	all := v.by
	v.by = map[string]*VMM{}
	v.mu.Unlock()
	var errs []error
	for _, l := range all {
		errs = append(errs, l.detach())
	}
	return errors.Join(errs...)
}

// VMM is one that runs, with what is held for it.
type VMM struct {
	vmm  driver.VMM
	host io.Closer
	logs *guestlog.Collector // nil: the guest's log is not kept

	limits limited

	// expected is closed when the agent itself ends the VMM or lets go of it, so that
	// the watcher does not take it for a crash.
	expected chan struct{}
	once     sync.Once
	watched  chan struct{} // closed when the watcher is gone
}

// Driver is the VMM itself.
func (l *VMM) Driver() driver.VMM { return l.vmm }

// Runs reports whether there is a VMM and it has not ended.
func (l *VMM) Runs() bool {
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

// Died reports whether there was a VMM and it ended, though the agent did not end it.
func (l *VMM) Died() bool {
	if l == nil || l.Runs() {
		return false
	}
	select {
	case <-l.expected:
		return false
	default:
		return true
	}
}

// Expect says that the VMM's end is the agent's doing.
func (l *VMM) Expect() { l.once.Do(func() { close(l.expected) }) }

// detach lets go of a VMM that goes on running.
func (l *VMM) detach() error {
	l.Expect()
	<-l.watched
	l.logs.End(0)
	return errors.Join(l.host.Close(), l.vmm.Close())
}

// adopt takes a VMM under watch, which has the limits.
func (v *VMMs) adopt(i mvm.Instance, vmm driver.VMM, host io.Closer, limits mvm.Limits) *VMM {
	l := &VMM{vmm: vmm, host: host, logs: v.collectLogs(i, vmm), expected: make(chan struct{}), watched: make(chan struct{}), limits: limited{turn: make(chan struct{}, 1), inForce: limits}}
	v.mu.Lock()
	v.by[i.ID] = l
	v.mu.Unlock()
	v.opt.Watcher.Began()
	if !v.group.Go(func() { v.watch(i.ID, l) }) {
		close(l.watched)
	}
	return l
}

// watch waits for the VMM's end, and tells of one that nobody asked for.
func (v *VMMs) watch(id string, l *VMM) {
	defer close(l.watched)
	select {
	case <-l.expected:
		return
	case <-v.life.Done():
		return
	case <-l.vmm.Done():
	}
	select {
	case <-l.expected:
		return
	default:
	}
	if v.life.Err() == nil {
		v.opt.Watcher.Ended(id, l)
	}
}

// Of returns the running VMM of an instance, nil when there is none.
func (v *VMMs) Of(id string) *VMM {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.by[id]
}

// Lives reports whether the instance has a VMM that has not ended.
func (v *VMMs) Lives(id string) bool { return v.Of(id).Runs() }

// Follow has the log of the instance's guest followed after the delay.
func (v *VMMs) Follow(id string, delay time.Duration) { v.Of(id).Follow(delay) }

// All returns the VMMs of the drivers, by instance.
func (v *VMMs) All() map[string]driver.VMM {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := make(map[string]driver.VMM, len(v.by))
	for id, l := range v.by {
		out[id] = l.vmm
	}
	return out
}

// Release ends the instance's VMM, in whatever state, and everything the agent
// holds for it. It can run twice.
func (v *VMMs) Release(ctx context.Context, i mvm.Instance) error {
	v.mu.Lock()
	l := v.by[i.ID]
	delete(v.by, i.ID)
	v.mu.Unlock()
	var errs []error
	if l != nil {
		l.Expect()
		<-l.watched
		errs = append(errs, l.vmm.Kill(ctx))
		l.logs.End(lastWords)
		errs = append(errs, l.vmm.Close())
	}
	if _, ok := v.absent.Load(i.ID); !ok {
		errs = append(errs, v.opt.Driver.Destroy(ctx, v.baseSpec(i)))
	}
	if v.opt.NamedTAPs != nil && errors.Join(errs...) == nil { // no VMM has it any more
		errs = append(errs, v.opt.NamedTAPs.DropTAP(ctx, i.Tenant, i.ID))
	}
	if l != nil {
		errs = append(errs, l.host.Close())
	}
	v.opt.Ingress.VMMEnded(i.ID)
	if err := errors.Join(errs...); err != nil {
		return mvm.Errorf(mvm.KindOf(err), "end VMM of %s: %w", i.ID, err)
	}
	return v.opt.Folders.RemoveRunDir(i.ID)
}

// baseSpec is the part of a Spec that finds an instance's VMM.
func (v *VMMs) baseSpec(i mvm.Instance) driver.Spec {
	dir := v.opt.Folders.Dir(i.ID)
	return driver.Spec{ID: i.ID, Dir: dir, RunDir: v.opt.Folders.RunDir(i.ID), UID: i.UID, GID: i.UID, Cgroup: "mvm-" + i.ID,
		VCPUs: i.Res.VCPUs, MemMiB: i.Res.MemMiB, MAC: i.MAC,
		Memory: v.opt.Folders.Snapshots(i).Memory(), Console: filepath.Join(dir, folders.Console)}
}

// Launch makes the VMM by start (a Start of the driver, when it boots, or a Restore) with
// its host listener and TAP, and takes it under watch. After an error nothing is left.
func (v *VMMs) Launch(ctx context.Context, i mvm.Instance, boots bool, start func(driver.Spec) (driver.VMM, error)) error {
	spec, err := v.openSpec(ctx, i, boots)
	if err != nil {
		return err
	}
	defer closeOpened(spec)
	if spec.Limits, err = v.opt.Limits(i); err != nil {
		return err
	}
	v.absent.Delete(i.ID)
	if err := v.opt.Folders.MakeRunDir(i); err != nil {
		return err
	}
	host, err := v.opt.Ingress.Listen(i)
	if err != nil {
		return err
	}
	vmm, err := v.withTAP(ctx, i, spec, start)
	if err != nil {
		return errors.Join(err, host.Close())
	}
	v.limitStarted(ctx, i, v.adopt(i, vmm, host, spec.Limits), spec.Limits)
	return nil
}

// withTAP makes the VMM with a TAP, by name or open as the driver wants it.
func (v *VMMs) withTAP(ctx context.Context, i mvm.Instance, spec driver.Spec, start func(driver.Spec) (driver.VMM, error)) (vmm driver.VMM, err error) {
	if v.opt.NamedTAPs == nil {
		if spec.TAP, err = v.opt.Networks.OpenTAP(ctx, i.Tenant, i.ID, i.UID); err != nil {
			return nil, mvm.Errorf(mvm.KindOf(err), "open TAP: %w", err)
		}
		vmm, err = start(spec)
		return vmm, errors.Join(err, spec.TAP.Close())
	}
	if spec.TAPName, err = v.opt.NamedTAPs.KeepTAP(ctx, i.Tenant, i.ID, i.UID); err != nil {
		return nil, mvm.Errorf(mvm.KindOf(err), "make TAP: %w", err)
	}
	if vmm, err = start(spec); err != nil {
		return nil, errors.Join(err, v.opt.NamedTAPs.DropTAP(context.WithoutCancel(ctx), i.Tenant, i.ID))
	}
	return vmm, nil
}
