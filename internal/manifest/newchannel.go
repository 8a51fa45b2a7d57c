package manifest

import "mvm"

// me is the user that examples name: the assistant of a bot is theirs too.
const me = "me"

// openclawChannel is what a channel of an OpenClaw deployment has unless it says otherwise:
// its messages go to the assistant of the user "me". Other kinds than these two OpenClaw
// does not take by itself.
func openclawChannel(kind mvm.ChannelKind) mvm.Channel {
	to := mvm.ChannelTarget{PoolID: "workers", Selector: mvm.ChannelSelector{From: "fixed:" + me}}
	switch kind {
	case mvm.ChannelTelegram:
		to.TargetPort, to.Path, to.Accept = 8787, "/telegram-webhook", mvm.AcceptDurable
		return mvm.Channel{Kind: kind, Secret: "telegram_token", Mode: mvm.ChannelPolling, To: to}
	case mvm.ChannelDiscord:
		to.TargetPort, to.Path = 8788, "/chat"
		return mvm.Channel{Kind: kind, Secret: "discord_token", To: to}
	}
	return mvm.Channel{Kind: kind}
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

// newChannel is what a channel of the kind has unless it says otherwise; "" is the
// template's own kind.
func (t Template) newChannel(kind mvm.ChannelKind) mvm.Channel {
	switch {
	case t.channel == nil:
		return mvm.Channel{Kind: kind}
	case kind == "":
		kind = mvm.ChannelTelegram
	}
	return t.channel(kind)
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
	if template.channel == nil {
		return
	}
	for _, kind := range []mvm.ChannelKind{mvm.ChannelTelegram, mvm.ChannelDiscord} {
		if s := template.channel(kind).Secret; c.Secrets[s] != nil && !used[s] {
			t.sub("secrets").item(s, nil).problem("is for a bot, and no channel says who may write to it: "+
				`add [channels.%s] with allow = ["<numeric id>"], see docs/%s.md`, kind, page(kind))
		}
	}
}

// page is the page about the kind.
func page(kind mvm.ChannelKind) string {
	if kind == mvm.ChannelTelegram {
		return "chat"
	}
	return string(kind)
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
