package fake

import (
	"context"
	"net"
	"sync"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/guestproto"
)

// vmm is a handle of a machine. The last one given out holds it; the ones before
// belong to agents that were restarted.
type vmm struct {
	m   *machine
	opt Options
	// unlimited is why it was started without limits.
	unlimited error

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{} // host sides
}

var (
	_ driver.VMM     = (*vmm)(nil)
	_ driver.Staller = (*vmm)(nil)
	_ driver.Limiter = (*vmm)(nil)
)

// hold gives out a handle, which takes the machine over.
func (d *Driver) hold(m *machine) *vmm {
	v := &vmm{m: m, opt: d.opt, conns: map[net.Conn]struct{}{}}
	m.mu.Lock()
	before := m.holder
	m.holder = v
	m.mu.Unlock()
	if before != nil {
		_ = before.Close()
	}
	return v
}

// enter starts an operation through the handle.
func (v *vmm) enter(ctx context.Context, op Op) error {
	v.mu.Lock()
	closed := v.closed
	v.mu.Unlock()
	if closed {
		return mvm.Errorf(mvm.KindState, "%s %s: the handle was closed, or another recovered the VMM", op, v.m.spec.ID)
	}
	return v.opt.seam(ctx, op, v.m.spec.ID)
}

// PID is 0: there is no process.
func (v *vmm) PID() int { return 0 }

// Done is closed when the VMM is gone.
func (v *vmm) Done() <-chan struct{} { return v.m.done }

// Exit says how it ended.
func (v *vmm) Exit() driver.Exit {
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	return v.m.exit
}

// Paused reports whether the guest is paused.
func (v *vmm) Paused(ctx context.Context) (bool, error) {
	if err := v.enter(ctx, OpPaused); err != nil {
		return false, err
	}
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	return v.m.state == Paused, v.m.live(OpPaused)
}

// Pause pauses the guest.
func (v *vmm) Pause(ctx context.Context) error {
	if err := v.enter(ctx, OpPause); err != nil {
		return err
	}
	return v.m.pause(v.m.host.behavior(v.m.spec.ID).DieOnPause)
}

// Resume lets the guest run.
func (v *vmm) Resume(ctx context.Context) error {
	if err := v.enter(ctx, OpResume); err != nil {
		return err
	}
	return v.m.resume(v.m.host.behavior(v.m.spec.ID).DieOnResume)
}

// Snapshot writes memory and device state.
func (v *vmm) Snapshot(ctx context.Context, snap driver.Snapshot) error {
	if err := v.enter(ctx, OpSnapshot); err != nil {
		return err
	}
	if err := v.opt.seam(ctx, OpSnapshotMemory, v.m.spec.ID); err != nil {
		return err
	}
	return v.m.snapshot(ctx, snap, func() error { return v.opt.seam(ctx, OpSnapshotState, v.m.spec.ID) })
}

// Unlimited is described at driver.Limiter.
func (v *vmm) Unlimited() error { return v.unlimited }

// started is hold of a machine that was started or woken just now, with its limits.
func (d *Driver) started(ctx context.Context, m *machine) driver.VMM {
	err := d.opt.seam(ctx, OpStartLimit, m.spec.ID)
	if err != nil {
		m.mu.Lock()
		m.spec.Limits = mvm.Limits{}
		m.mu.Unlock()
	}
	v := d.hold(m)
	v.unlimited = err
	return v
}

// Limit is described at driver.Limiter.
func (v *vmm) Limit(ctx context.Context, l mvm.Limits) error {
	if err := v.enter(ctx, OpLimit); err != nil {
		return err
	}
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	if err := v.m.live(OpLimit); err != nil {
		return err
	}
	v.m.spec.Limits = l
	return nil
}

// Powerdown asks the guest to power off.
func (v *vmm) Powerdown(ctx context.Context) error {
	if err := v.enter(ctx, OpPowerdown); err != nil {
		return err
	}
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	if err := v.m.live(OpPowerdown); err != nil {
		return err
	}
	if v.m.state == Running && !v.m.host.behavior(v.m.spec.ID).IgnorePowerdown {
		v.m.endLocked(driver.Exit{Guest: true, Detail: "guest powered off"}, false)
	}
	return nil
}

// Kill ends the VMM and waits for its goroutines.
func (v *vmm) Kill(ctx context.Context) error {
	if err := v.enter(ctx, OpKill); err != nil {
		return err
	}
	v.m.end(driver.Exit{Signal: 9, Detail: "killed"}, true)
	v.m.join()
	return nil
}

// Dial opens a stream to the guest.
func (v *vmm) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	if err := v.enter(ctx, OpDial); err != nil {
		return nil, err
	}
	conn, err := v.m.dial(ctx, port)
	if err != nil {
		return nil, err
	}
	c := &stream{Conn: conn, v: v}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		_ = conn.Close()
		return nil, mvm.Errorf(mvm.KindState, "dial %s: the handle was closed", v.m.spec.ID)
	}
	v.conns[conn] = struct{}{}
	return c, nil
}

// dial waits until the guest answers and connects.
func (m *machine) dial(ctx context.Context, port uint32) (net.Conn, error) {
	b := m.host.behavior(m.spec.ID)
	m.mu.Lock()
	defer m.mu.Unlock()
	wait := time.Until(m.guest.Booted.Add(b.Boot))
	if wait > 0 {
		t := time.AfterFunc(wait, m.wake)
		defer t.Stop()
	}
	up := func() bool {
		return m.state == Running && !b.NoChannel && time.Since(m.guest.Booted) >= b.Boot
	}
	if err := m.await(ctx, up); err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "dial port %d of %s: %w", port, m.spec.ID, err)
	}
	fn := m.host.listener(m.spec.ID, port)
	if port == guestproto.GuestPort {
		fn = m.serve
	}
	if fn == nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "dial port %d of %s: nothing listens there", port, m.spec.ID)
	}
	return m.stream(fn), nil
}

// stream is the host side of a stream, which ends with its handle.
type stream struct {
	net.Conn
	v *vmm
}

// Close closes the stream.
func (s *stream) Close() error {
	s.v.mu.Lock()
	delete(s.v.conns, s.Conn)
	s.v.mu.Unlock()
	return s.Conn.Close()
}

// Stalled says why the VM stands still.
func (v *vmm) Stalled() string { return v.m.host.behavior(v.m.spec.ID).Stalled }

// Stats measures what the guest's behaviour says that it uses.
func (v *vmm) Stats(ctx context.Context) (driver.Stats, error) {
	if err := v.enter(ctx, OpStats); err != nil {
		return driver.Stats{}, err
	}
	b := v.m.host.behavior(v.m.spec.ID)
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	if err := v.m.live(OpStats); err != nil {
		return driver.Stats{}, err
	}
	return v.m.measure(b), nil
}

// Close lets go of the VMM; its streams through this handle end.
func (v *vmm) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
	for c := range v.conns {
		_ = c.Close()
	}
	clear(v.conns)
	return nil
}
