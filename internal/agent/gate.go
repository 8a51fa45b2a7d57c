package agent

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"net/netip"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/driver"
	"mvm/internal/guestproto"
	"mvm/internal/secrets"
	"mvm/internal/store"
)

// gate gives the guest all that it is and has (clock, entropy, network, secrets)
// and returns when the guest says that it is in force. reason is "boot" or "wake".
func (o *operation) gate(ctx context.Context, reason string) error {
	defer o.a.pushing.Lock(o.inst.ID)() // so that no older configuration arrives after this one
	cfg, err := o.a.guestConfig(o.inst, reason)
	if err != nil {
		return err
	}
	sent := time.Now()
	cfg.UnixNanos = sent.UnixNano()
	resp, err := o.a.ask(ctx, o.inst.ID, guestproto.Request{Configure: &cfg})
	if err != nil {
		return err
	}
	got := time.Now()
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
	return o.settleClock(ctx, ack.UnixNanos, sent, got)
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
	cfg, err := o.a.guestConfig(o.inst, "wake")
	if err != nil {
		return false, err
	}
	r := guestproto.Resume{AdvanceNanos: int64(o.resumedAt.Sub(o.inst.Snapshot.PausedAt)), Digest: [32]byte(cfg.Digest)}
	copy(r.Entropy[:], cfg.Entropy)
	sent := time.Now()
	r.UnixNanos = sent.UnixNano()
	b, err := g.Greet(ctx, r.Encode())
	if err != nil {
		return false, err
	}
	got := time.Now()
	ans, err := guestproto.DecodeResumed(b)
	if err != nil || !ans.Clean || !ans.InForce {
		return false, err
	}
	o.inst.SecretsGeneration, o.digest = cfg.Generation, cfg.Digest
	var c clockBounds
	c.saw(time.Unix(0, ans.UnixNanos), sent, got)
	if c.least().Abs() > maxClockError {
		return true, o.settleClock(ctx, ans.UnixNanos, sent, got)
	}
	o.clock = c.least()
	return true, nil
}

// guestConfig is what an instance's guest gets.
func (a *Agent) guestConfig(i mvm.Instance, reason string) (guestproto.Configure, error) {
	var t mvm.Tenant
	var p mvm.Pool
	var sealed []byte
	var gateways []netip.Addr
	err := a.store.View(func(tx *store.Tx) (err error) {
		if t, err = tx.Tenant(i.Tenant); err != nil {
			return err
		}
		if p, err = tx.Pool(i.Tenant, i.Pool); err != nil {
			return err
		}
		sealed = tx.Secrets(i.Tenant)
		gateways, err = gatewayAddrs(tx, i.Tenant)
		return err
	})
	if err != nil {
		return guestproto.Configure{}, err
	}
	vals, err := a.openSecrets(t, sealed)
	if err != nil {
		return guestproto.Configure{}, err
	}
	files, missing := secrets.Scope(p.Spec, vals)
	if len(missing) > 0 {
		a.log.Warn("secrets of the pool's scopes are not there", "tenant", t.ID, "pool", p.Spec.ID, "names", missing)
	}
	c := guestproto.Configure{Reason: reason, TenantID: t.ID, PoolID: p.Spec.ID, InstanceID: i.ID, Role: p.Spec.Role, Key: i.Key,
		Hostname: i.ID, Generation: t.SecretsGeneration, Secrets: files, Env: p.Spec.Env,
		Integrations: p.Spec.Integrations, Routes: p.Spec.Routes, RouteKeys: routeKeys(p.Spec, vals), ListenPorts: listenPorts(p.Spec), Gateways: gateways,
		Net: &guestproto.Net{MAC: i.MAC, Address: netip.PrefixFrom(i.IP, t.Subnet.Bits()), Gateway: hostAddr(t), DNS: a.dns.now()}}
	if c.Digest, err = configDigest(c); err != nil {
		return c, err
	}
	if reason != "update" {
		c.Entropy = make([]byte, 64)
		rand.Read(c.Entropy)
	}
	return c, nil
}

// routeKeys are the secrets that a gateway's routes verify tokens with. One that is not
// there, or too large for a key, is left out: the route then refuses every request.
func routeKeys(s mvm.PoolSpec, vals map[string][]byte) map[string][]byte {
	if s.Routes == nil {
		return nil
	}
	out := map[string][]byte{}
	for _, name := range s.Routes.AuthKeys() {
		if v := vals[name]; len(v) > 0 && len(v) <= mvm.MaxAuthKeyBytes {
			out[name] = v
		}
	}
	return out
}

// configDigest names everything of a Configure but its reason, time and entropy. It
// covers secrets, so it goes to the guest that has them and nowhere else.
func configDigest(c guestproto.Configure) ([]byte, error) {
	c.Reason, c.UnixNanos, c.Entropy, c.Digest, c.RequestID = "", 0, nil, nil, ""
	b, err := json.Marshal(c)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "digest configuration: %w", err)
	}
	sum := sha256.Sum256(b)
	return sum[:], nil
}

// gatewayAddrs are the addresses of a tenant's gateways.
func gatewayAddrs(tx *store.Tx, tenant string) (out []netip.Addr, err error) {
	all, err := tx.Instances(tenant, "")
	for _, i := range all {
		if i.Role == mvm.RoleGateway {
			out = append(out, i.IP)
		}
	}
	return out, err
}

func (a *Agent) openSecrets(t mvm.Tenant, sealed []byte) (map[string][]byte, error) {
	if len(sealed) == 0 {
		return nil, nil
	}
	vals, err := a.opt.Sealer.Open(t.ID, t.SecretsGeneration, sealed)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "open secrets of tenant %s: %w", t.ID, err).
			WithFix("check that the key file is the one that this data dir was made with")
	}
	return vals, nil
}

// listenPorts are the ports of a gateway that its host connects to.
func listenPorts(s mvm.PoolSpec) []int {
	seen, out := map[int]bool{}, []int{}
	add := func(p int) {
		if p > 0 && !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	if s.Routes != nil {
		for _, r := range s.Routes.Routes {
			add(r.Match.Port)
		}
	}
	for _, p := range s.Publish {
		add(p.Guest)
	}
	return out
}

// detail is a guest's reason, bounded.
func detail(s *string) string {
	if s == nil || *s == "" {
		return "it gave no reason"
	}
	return display.Clip(*s)
}
