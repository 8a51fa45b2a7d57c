package deliver

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/secrets"
	"mvm/internal/store"
)

// Config is what an instance's guest gets. Reason is "boot", "wake" or "update".
func (d *Deliverer) Config(i mvm.Instance, reason string) (guestproto.Configure, error) {
	var t mvm.Tenant
	var p mvm.Pool
	var sealed []byte
	var gateways []netip.Addr
	var chats []chatPool
	err := d.opt.Store.View(func(tx *store.Tx) (err error) {
		if t, err = tx.Tenant(i.Tenant); err != nil {
			return err
		}
		if p, err = tx.Pool(i.Tenant, i.Pool); err != nil {
			return err
		}
		sealed = tx.Secrets(i.Tenant)
		if chats, err = chatPools(tx, i.Tenant); err != nil {
			return err
		}
		gateways, err = gatewayAddrs(tx, i.Tenant)
		return err
	})
	if err != nil {
		return guestproto.Configure{}, err
	}
	vals, err := d.opt.Secrets.OpenSecrets(t, sealed)
	if err != nil {
		return guestproto.Configure{}, err
	}
	own, forWorker, err := d.channels(i, p, chats, vals)
	if err != nil {
		return guestproto.Configure{}, err
	}
	files, missing := secrets.Scope(p.Spec, withheld(chats, vals))
	maps.Copy(files, forWorker)
	if len(missing) > 0 {
		d.opt.Log.Warn("secrets of the pool's scopes are not there", "tenant", t.ID, "pool", p.Spec.ID, "names", missing)
	}
	c := guestproto.Configure{Reason: reason, TenantID: t.ID, PoolID: p.Spec.ID, InstanceID: i.ID, Role: p.Spec.Role, Key: i.Key,
		Hostname: i.ID, Generation: t.SecretsGeneration, Secrets: files, Env: p.Spec.Env,
		Integrations: p.Spec.Integrations, Routes: p.Spec.Routes, RouteKeys: routeKeys(p.Spec, vals), Channels: own, ListenPorts: listenPorts(p.Spec), Gateways: gateways,
		Net: &guestproto.Net{MAC: i.MAC, Address: netip.PrefixFrom(i.IP, t.Subnet.Bits()), Gateway: hostAddr(t), DNS: d.resolversOf(t)}}
	if c.Digest, err = digest(c); err != nil {
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

// digest names everything of a Configure but its reason, time and entropy. It
// covers secrets, so it goes to the guest that has them and nowhere else.
func digest(c guestproto.Configure) ([]byte, error) {
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
		if !slices.ContainsFunc(s.Channels, func(c mvm.Channel) bool { return c.Port == p.Guest }) { // the channel listens there
			add(p.Guest)
		}
	}
	return out
}

// hostAddr is the tenant's gateway address on the host.
func hostAddr(t mvm.Tenant) netip.Addr {
	gw, _ := mvm.SubnetAddr(t.Subnet, mvm.GatewayOffset)
	return gw
}
