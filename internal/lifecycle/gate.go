package lifecycle

import (
	"context"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/driver"
	"mvm/internal/guestclock"
	"mvm/internal/guestproto"
)

// gate gives the guest all that it is and has (clock, entropy, network, secrets)
// and returns when the guest says that it is in force. reason is "boot" or "wake".
func (o *operation) gate(ctx context.Context, reason string) error {
	defer o.l.opt.Deliver.Lock(o.inst.ID)() // so that no older configuration arrives after this one
	cfg, err := o.l.opt.Deliver.Config(o.inst, reason)
	if err != nil {
		return err
	}
	sent := o.l.opt.Now()
	cfg.UnixNanos = sent.UnixNano()
	resp, err := o.l.opt.Guests.Ask(ctx, o.inst.ID, guestproto.Request{Configure: &cfg})
	if err != nil {
		return err
	}
	got := o.l.opt.Now()
	ack := resp.ConfigureAck
	switch {
	case ack == nil:
		return mvm.Errorf(mvm.KindUnavailable, "configure guest: it gave another answer")
	case !ack.Success:
		return mvm.Errorf(mvm.KindUnavailable, "configure guest: %s", detail(ack.Detail))
	case ack.Generation != cfg.Generation:
		return mvm.Errorf(mvm.KindUnavailable, "configure guest: it has secrets generation %d, not %d", ack.Generation, cfg.Generation)
	}
	o.inst.SecretsGeneration, o.digest = ack.Generation, cfg.Digest
	o.inst.Suspends, o.settling = ack.Suspends, ack.Settling
	return o.correctClock(ctx, ack.UnixNanos, sent, got)
}

// greet is the gate of a restored guest in one exchange: clock and entropy, and that
// the configuration in force is the present one. false means that the guest needs
// the whole gate.
func (o *operation) greet(ctx context.Context) (bool, error) {
	v, err := o.vmm()
	if err != nil {
		return false, err
	}
	g, ok := v.(driver.Greeter)
	// A gateway needs all of it: what it knew of others is out of date, and addresses
	// may have gone to other users' instances since.
	if !ok || o.inst.Role == mvm.RoleGateway || o.resumedAt.IsZero() || o.inst.Snapshot == nil || o.inst.Snapshot.PausedAt.IsZero() {
		return false, nil
	}
	cfg, err := o.l.opt.Deliver.Config(o.inst, "wake")
	if err != nil {
		return false, err
	}
	r := guestproto.Resume{AdvanceNanos: int64(o.resumedAt.Sub(o.inst.Snapshot.PausedAt)), Digest: [32]byte(cfg.Digest)}
	copy(r.Entropy[:], cfg.Entropy)
	sent := o.l.opt.Now()
	r.UnixNanos = sent.UnixNano()
	b, err := g.Greet(ctx, r.Encode())
	if err != nil {
		return false, err
	}
	got := o.l.opt.Now()
	ans, err := guestproto.DecodeResumed(b)
	if err != nil || !ans.Clean || !ans.InForce {
		return false, err
	}
	o.inst.SecretsGeneration, o.digest = cfg.Generation, cfg.Digest
	var c guestclock.Bounds
	c.Saw(time.Unix(0, ans.UnixNanos), sent, got)
	if c.Least().Abs() > guestclock.MaxError {
		return true, o.correctClock(ctx, ans.UnixNanos, sent, got)
	}
	o.clock = c.Least()
	return true, nil
}

// detail is a guest's reason, bounded.
func detail(s *string) string {
	if s == nil || *s == "" {
		return "it gave no reason"
	}
	return display.Clip(*s)
}
