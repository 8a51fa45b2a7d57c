package deliver

import (
	"encoding/json"
	"maps"
	"net/netip"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/store"
)

// chatPool is a gateway pool with channels, and the address of its gateway, if it has one.
type chatPool struct {
	mvm.PoolSpec
	gateway netip.Addr
}

// chatPools are the gateway pools of a tenant with channels.
func chatPools(tx *store.Tx, tenant string) (out []chatPool, err error) {
	pools, err := tx.Pools(tenant)
	if err != nil {
		return nil, err
	}
	for _, p := range pools {
		if len(p.Spec.Channels) == 0 {
			continue
		}
		all, err := tx.Instances(tenant, p.Spec.ID)
		if err != nil {
			return nil, err
		}
		c := chatPool{PoolSpec: p.Spec}
		if len(all) > 0 {
			c.gateway = all[0].IP
		}
		out = append(out, c)
	}
	return out, nil
}

// withheld returns the secrets without those of channels: a guest gets a channel's secret
// as the channel's gateway, and in no other way.
func withheld(chats []chatPool, vals map[string][]byte) map[string][]byte {
	if len(chats) == 0 {
		return vals
	}
	vals = maps.Clone(vals)
	for _, p := range chats {
		for _, c := range p.Channels {
			for _, name := range c.Secrets() {
				delete(vals, name)
			}
		}
	}
	return vals
}

// channels returns the channels of a gateway, or the files of a worker to which channels
// lead.
func (d *Deliverer) channels(i mvm.Instance, p mvm.Pool, chats []chatPool, vals map[string][]byte) (own []guestproto.Channel, files map[string][]byte, err error) {
	files = map[string][]byte{}
	for _, chat := range chats {
		for _, spec := range chat.Channels {
			mine := i.Role == mvm.RoleGateway && chat.ID == p.Spec.ID
			if !mine && spec.To.PoolID != p.Spec.ID {
				continue
			}
			c := guestproto.Channel{Channel: spec, Token: vals[spec.Secret], Verify: vals[spec.VerifySecret]}
			if c.Key, err = d.opt.Secrets.ChannelKey(i.Tenant, chat.ID, spec.Name); err != nil {
				return nil, nil, err
			}
			if mine {
				own = append(own, c)
				continue
			}
			if files["channels/"+spec.Name+".json"], err = workerChannel(i, c, chat.gateway); err != nil {
				return nil, nil, err
			}
		}
	}
	return own, files, nil
}

// workerChannel is the file of a worker. It has nothing of the real token but the bot's id.
func workerChannel(i mvm.Instance, c guestproto.Channel, gateway netip.Addr) ([]byte, error) {
	w := guestproto.WorkerChannel{Name: c.Name, Kind: c.Kind, Port: c.To.TargetPort, Path: c.To.Path, Secret: c.WebhookSecret(i.ID), Allow: c.Allow}
	if !c.Keeps() {
		w.Token = c.Placeholder(i.ID, i.Key)
	}
	if gateway.IsValid() && !c.Keeps() {
		w.APIRoot = "http://" + netip.AddrPortFrom(gateway, uint16(c.Proxy())).String()
	}
	b, err := json.Marshal(w)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "encode channel %s of instance %s: %w", c.Name, i.ID, err)
	}
	return append(b, '\n'), nil
}
