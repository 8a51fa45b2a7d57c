package manifest

import (
	"slices"

	"mvm"
)

// channelDefaults reads what a channel of a kind has unless it says otherwise, by kind.
func (t *table) channelDefaults(pools []mvm.PoolSpec) map[mvm.ChannelKind]mvm.Channel {
	out := map[mvm.ChannelKind]mvm.Channel{}
	sub := t.sub("channels")
	if sub == nil {
		return out
	}
	for _, name := range sub.names() {
		i, _ := sub.get(name)
		one := i.table()
		if !i.check(mvm.ValidateChannelKind(name)) || one == nil {
			continue
		}
		kind := mvm.ChannelKind(name)
		c := mvm.Channel{Kind: kind, Allow: []string{}}
		one.channel(&c)
		if c.Kind != kind {
			one.item("kind", nil).problem("must be %s, as the table's name is", kind)
		}
		if !slices.ContainsFunc(pools, func(p mvm.PoolSpec) bool { return p.ID == c.To.PoolID }) && c.To.PoolID != "" {
			one.here().at("target").at("pool_id").problem("there is no pool %q in this file", c.To.PoolID)
		}
		if len(c.Allow) == 0 {
			c.Allow = nil // whoever makes the deployment says who may write
		}
		out[kind] = c
	}
	return out
}

// newChannels reads the channels of a config file, by name.
func (t *table) newChannels(template Template) (out []mvm.Channel) {
	sub := t.sub("channels")
	if sub == nil {
		return nil
	}
	for _, name := range sub.names() {
		i, _ := sub.get(name)
		i.check(mvm.ValidateName("channel", name))
		if one := i.table(); one != nil {
			c := template.newChannel(one.newKind(name))
			c.Name = name
			one.channel(&c)
			out = append(out, c)
		}
	}
	if len(out) > mvm.MaxChannels {
		sub.here().problem("has %d channels, more than %d", len(out), mvm.MaxChannels)
	}
	return out
}

// newKind is the kind of a channel: what it says, or its name if that is a kind.
func (t *table) newKind(name string) mvm.ChannelKind {
	if kind, ok := t.vals["kind"].(string); ok {
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
func (t *table) checkNewChannels(template Template, c NewConfig) {
	if c.Secrets == nil {
		return
	}
	used := map[string]bool{}
	for _, ch := range c.Channels {
		for _, secret := range ch.Secrets() {
			used[secret] = true
			if _, ok := c.Secrets[secret]; !ok && secret != "" {
				t.sub("channels").item(ch.Name, nil).problem("needs the secret %s, which is not in this file", secret)
			}
		}
	}
	for kind, defaults := range template.channels {
		if s := defaults.Secret; c.Secrets[s] != nil && !used[s] {
			t.sub("secrets").item(s, nil).problem("is for a bot, and no channel says who may write to it: "+
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
