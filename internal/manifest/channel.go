package manifest

import (
	"mvm"
)

// channels reads the optional list of channels of a gateway pool.
func (t *table) channels() []mvm.Channel {
	var out []mvm.Channel
	names, secrets := map[string]bool{}, map[string]string{}
	for _, sub := range t.tables("channels", mvm.MaxChannels) {
		var c mvm.Channel
		sub.needStr("name", &c.Name, validName("channel"))
		sub.channel(&c)
		if c.Name != "" && names[c.Name] {
			sub.item("name", nil).problem("channel %q is given twice", c.Name)
		}
		if other := secrets[c.Secret]; other != "" && c.Secret != "" {
			sub.item("secret", nil).problem("channel %q has the same secret: a bot has one channel", other)
		}
		names[c.Name], secrets[c.Secret] = true, c.Name
		out = append(out, c)
	}
	return out
}

// channel reads a channel, but for its name, over what is set already: those are the
// defaults, and what has none must be in the table.
func (t *table) channel(c *mvm.Channel) {
	before := len(t.doc.problems)
	need := func(key string, has bool) {
		if _, ok := t.vals[key]; !ok && !has {
			t.here().problem("%s is missing", key)
		}
	}
	need("kind", c.Kind != "")
	need("secret", c.Secret != "")
	need("allow", c.Allow != nil)
	need("target", c.To != mvm.ChannelTarget{})
	t.str("kind", (*string)(&c.Kind), mvm.ValidateChannelKind)
	if c.Mode == "" {
		c.Mode = defaultMode(c.Kind)
	}
	t.str("secret", &c.Secret, mvm.ValidateSecretName)
	t.str("mode", (*string)(&c.Mode), nil)
	if list, ok := t.items("allow", mvm.MaxChannelAllow); ok {
		c.Allow = []string{}
		for _, i := range list {
			if a, ok := i.str(); ok && i.check(mvm.ValidateChannelAllow(c.Kind, a)) {
				c.Allow = append(c.Allow, a)
			}
		}
	}
	t.integer("port", &c.Port, 1, maxPort)
	t.str("url", &c.URL, nil)
	t.integer("proxy_port", &c.ProxyPort, 1, maxPort)
	t.str("api_root", &c.APIRoot, nil)
	t.str("verify_secret", &c.VerifySecret, mvm.ValidateSecretName)
	t.str("auth", (*string)(&c.Auth), nil)
	t.str("id_from", &c.IDFrom, nil)
	t.str("chat_from", &c.ChatFrom, nil)
	t.str("sender_from", &c.SenderFrom, nil)
	if i, ok := t.get("target"); ok {
		if to := i.table(); to != nil {
			to.channelTarget(&c.To)
		}
	}
	t.done()
	if len(t.doc.problems) == before && c.Name != "" { // what no key alone shows
		t.here().check(c.Validate())
	}
}

// defaultMode is how messages of the kind arrive unless the manifest says otherwise.
func defaultMode(kind mvm.ChannelKind) mvm.ChannelMode {
	switch kind {
	case mvm.ChannelTelegram:
		return mvm.ChannelPolling
	case mvm.ChannelDiscord:
		return ""
	}
	return mvm.ChannelWebhook
}

func (t *table) channelTarget(to *mvm.ChannelTarget) {
	need := t.needStr
	if to.PoolID != "" {
		need = t.str
	}
	need("pool_id", &to.PoolID, validName("pool"))
	if i, ok := t.get("instance_selector"); ok {
		s, err := mvm.ChannelSelectorFrom(i.val)
		if i.check(err) {
			to.Selector = s
		}
	} else if to.TargetPort == 0 {
		t.here().problem("instance_selector is missing")
	}
	if i, ok := t.get("target_port"); ok {
		i.intInto(&to.TargetPort, 1, maxPort)
	} else if to.TargetPort == 0 {
		t.here().problem("target_port is missing")
	}
	need("path", &to.Path, nil)
	t.str("accept", (*string)(&to.Accept), nil)
	t.done()
}

// checkChannels finds targets that are not in the file, and secrets that its own table
// does not have.
func checkChannels(t *table, p mvm.PoolSpec, ids map[string]bool, secrets map[string][]byte) {
	for n, c := range p.Channels {
		if c.To.PoolID != "" && !ids[c.To.PoolID] {
			t.at("channels", n).at("target").at("pool_id").problem("there is no pool %q in this file", c.To.PoolID)
		}
		for i, key := range []string{"secret", "verify_secret"}[:len(c.Secrets())] {
			name := c.Secrets()[i]
			if _, ok := secrets[name]; !ok && secrets != nil && name != "" {
				t.at("channels", n).at(key).problem("%q is not one of the secrets in this file", name)
			}
		}
	}
}
