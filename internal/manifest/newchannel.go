package manifest

import (
	"slices"

	"mvm"
	"mvm/internal/stricttoml"
)

// readChannelDefaults reads what a channel of a kind has unless it says otherwise, by kind.
func readChannelDefaults(t *stricttoml.Table, pools []mvm.PoolSpec) map[mvm.ChannelKind]mvm.Channel {
	out := map[mvm.ChannelKind]mvm.Channel{}
	sub := t.Sub("channels")
	if sub == nil {
		return out
	}
	for _, name := range sub.Names() {
		i, _ := sub.Get(name)
		one := i.Table()
		if !i.Check(mvm.ValidateChannelKind(name)) || one == nil {
			continue
		}
		kind := mvm.ChannelKind(name)
		c := mvm.Channel{Kind: kind, Allow: []string{}}
		readChannel(one, &c)
		if c.Kind != kind {
			one.Item("kind", nil).Problem("must be %s, as the table's name is", kind)
		}
		if !slices.ContainsFunc(pools, func(p mvm.PoolSpec) bool { return p.ID == c.To.PoolID }) && c.To.PoolID != "" {
			one.Here().Key("target").Key("pool_id").Problem("there is no pool %q in this file", c.To.PoolID)
		}
		if len(c.Allow) == 0 {
			c.Allow = nil // whoever makes the deployment says who may write
		}
		out[kind] = c
	}
	return out
}

// readNewChannels reads the channels of a config file, by name.
func readNewChannels(t *stricttoml.Table, template Template) (out []mvm.Channel) {
	sub := t.Sub("channels")
	if sub == nil {
		return nil
	}
	for _, name := range sub.Names() {
		i, _ := sub.Get(name)
		i.Check(mvm.ValidateName("channel", name))
		if one := i.Table(); one != nil {
			c := template.newChannel(readNewKind(one, name))
			c.Name = name
			readChannel(one, &c)
			out = append(out, c)
		}
	}
	if len(out) > mvm.MaxChannels {
		sub.Here().Problem("has %d channels, more than %d", len(out), mvm.MaxChannels)
	}
	return out
}

// readNewKind is the kind of a channel: what it says, or its name if that is a kind.
func readNewKind(t *stricttoml.Table, name string) mvm.ChannelKind {
	if kind, ok := t.Vals["kind"].(string); ok {
		name = kind
	}
	if mvm.ValidateChannelKind(name) != nil {
		return ""
	}
	return mvm.ChannelKind(name)
}

// newChannel is what a channel of the kind has unless it says otherwise. One without a kind
// is Telegram's, where the template knows it.
func (t Template) newChannel(kind mvm.ChannelKind) mvm.Channel {
	if kind == "" && t.channels[mvm.ChannelTelegram].Kind != "" {
		kind = mvm.ChannelTelegram
	}
	c, ok := t.channels[kind]
	if !ok {
		return mvm.Channel{Kind: kind}
	}
	c.Allow = slices.Clone(c.Allow)
	return c
}

// checkNewChannels finds what secrets and channels of a config file only show together.
func checkNewChannels(t *stricttoml.Table, template Template, c NewConfig) {
	if c.Secrets == nil {
		return
	}
	used := map[string]bool{}
	for _, ch := range c.Channels {
		for _, secret := range ch.Secrets() {
			used[secret] = true
			if _, ok := c.Secrets[secret]; !ok && secret != "" {
				t.Sub("channels").Item(ch.Name, nil).Problem("needs the secret %s, which is not in this file", secret)
			}
		}
	}
	for kind, defaults := range template.channels {
		if s := defaults.Secret; c.Secrets[s] != nil && !used[s] {
			t.Sub("secrets").Item(s, nil).Problem("is for a bot, and no channel says who may write to it: "+
				`add [channels.%s] with allow = ["<numeric id>"], see docs/%s.md`, kind, page(kind))
		}
	}
}

// page is the page about the kind.
func page(kind mvm.ChannelKind) string {
	if kind == mvm.ChannelDiscord {
		return "discord"
	}
	return "chat"
}

// keptMiB is the data disk of a gateway that keeps messages, where nothing else is said.
const keptMiB = 512

// addChannels adds the channels to the gateways of a deployment.
func addChannels(pools []mvm.PoolSpec, channels []mvm.Channel) {
	for n := range pools {
		p := &pools[n]
		if p.Role != mvm.RoleGateway {
			continue
		}
		p.Channels = append(p.Channels, channels...)
		if p.Resources.DataDiskMiB == 0 && p.Keeps() {
			p.Resources.DataDiskMiB = keptMiB
		}
		return
	}
}
