package manifest

import "mvm"

// me is the user that examples name: the assistant of a bot is theirs too.
const me = "me"

// openclawChannel is what a channel of an OpenClaw deployment has unless it says otherwise:
// its messages go to the assistant of the user "me".
func openclawChannel() mvm.Channel {
	return mvm.Channel{Kind: mvm.ChannelTelegram, Secret: "telegram_token", Mode: mvm.ChannelPolling,
		To: mvm.ChannelTarget{PoolID: "workers", Selector: mvm.ChannelSelector{From: "fixed:" + me}, TargetPort: 8787, Path: "/telegram-webhook", Accept: mvm.AcceptDurable}}
}

// newChannels reads the channels of a config file, by name.
func (t *table) newChannels(template Template) (out []mvm.Channel) {
	sub := t.sub("channels")
	if sub == nil {
		return nil
	}
	for _, name := range sub.names() {
		i, _ := sub.get(name)
		c := mvm.Channel{}
		if template.channel != nil {
			c = template.channel()
		}
		c.Name = name
		i.check(mvm.ValidateName("channel", name))
		if one := i.table(); one != nil {
			one.channel(&c)
			out = append(out, c)
		}
	}
	if len(out) > mvm.MaxChannels {
		sub.here().problem("has %d channels, more than %d", len(out), mvm.MaxChannels)
	}
	return out
}

// checkNewChannels finds what secrets and channels of a config file only show together.
func (t *table) checkNewChannels(template Template, c NewConfig) {
	if c.Secrets == nil {
		return
	}
	used := map[string]bool{}
	for _, ch := range c.Channels {
		used[ch.Secret] = true
		if _, ok := c.Secrets[ch.Secret]; !ok {
			t.sub("channels").item(ch.Name, nil).problem("needs the secret %s, which is not in this file", ch.Secret)
		}
	}
	if template.channel == nil {
		return
	}
	if s := template.channel().Secret; c.Secrets[s] != nil && !used[s] {
		t.sub("secrets").item(s, nil).problem("is for a bot, and no channel says who may write to it: " +
			`add [channels.telegram] with allow = ["<numeric id>"], see docs/chat.md`)
	}
}

// addChannels adds the channels to the gateways of a deployment.
func addChannels(pools []mvm.PoolSpec, channels []mvm.Channel) {
	for n := range pools {
		if pools[n].Role == mvm.RoleGateway {
			pools[n].Channels = append(pools[n].Channels, channels...)
			return
		}
	}
}
