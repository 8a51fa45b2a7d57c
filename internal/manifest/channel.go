package manifest

import (
	"mvm"
	"mvm/internal/stricttoml"
)

// readChannels reads the optional list of channels of a gateway pool.
func readChannels(t *stricttoml.Table) []mvm.Channel {
	var out []mvm.Channel
	names, secrets := map[string]bool{}, map[string]string{}
	for _, sub := range t.Tables("channels", mvm.MaxChannels) {
		var c mvm.Channel
		sub.NeedStr("name", &c.Name, validName("channel"))
		readChannel(sub, &c)
		if c.Name != "" && names[c.Name] {
			sub.Item("name", nil).Problem("channel %q is given twice", c.Name)
		}
		if other := secrets[c.Secret]; other != "" && c.Secret != "" {
			sub.Item("secret", nil).Problem("channel %q has the same secret: a bot has one channel", other)
		}
		names[c.Name], secrets[c.Secret] = true, c.Name
		out = append(out, c)
	}
	return out
}

// readChannel reads a channel, but for its name, over what is set already: those are the
// defaults, and what has none must be in the table.
func readChannel(t *stricttoml.Table, c *mvm.Channel) {
	before := len(t.Doc.Problems)
	need := func(key string, has bool) {
		if _, ok := t.Vals[key]; !ok && !has {
			t.Here().Problem("%s is missing", key)
		}
	}
	need("kind", c.Kind != "")
	need("secret", c.Secret != "")
	need("allow", c.Allow != nil)
	need("target", c.To != mvm.ChannelTarget{})
	t.Str("kind", (*string)(&c.Kind), mvm.ValidateChannelKind)
	if c.Mode == "" {
		c.Mode = defaultMode(c.Kind)
	}
	t.Str("secret", &c.Secret, mvm.ValidateSecretName)
	t.Str("mode", (*string)(&c.Mode), nil)
	if list, ok := t.Items("allow", mvm.MaxChannelAllow); ok {
		c.Allow = []string{}
		for _, i := range list {
			if a, ok := i.Str(); ok && i.Check(mvm.ValidateChannelAllow(c.Kind, a)) {
				c.Allow = append(c.Allow, a)
			}
		}
	}
	t.Integer("port", &c.Port, 1, maxPort)
	t.Str("url", &c.URL, nil)
	t.Integer("proxy_port", &c.ProxyPort, 1, maxPort)
	t.Str("api_root", &c.APIRoot, nil)
	t.Str("verify_secret", &c.VerifySecret, mvm.ValidateSecretName)
	t.Str("auth", (*string)(&c.Auth), nil)
	t.Str("id_from", &c.IDFrom, nil)
	t.Str("chat_from", &c.ChatFrom, nil)
	t.Str("sender_from", &c.SenderFrom, nil)
	if i, ok := t.Get("target"); ok {
		if to := i.Table(); to != nil {
			readChannelTarget(to, &c.To)
		}
	}
	t.Done()
	if len(t.Doc.Problems) == before && c.Name != "" { // what no key alone shows
		t.Here().Check(c.Validate())
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

func readChannelTarget(t *stricttoml.Table, to *mvm.ChannelTarget) {
	need := t.NeedStr
	if to.PoolID != "" {
		need = t.Str
	}
	need("pool_id", &to.PoolID, validName("pool"))
	if i, ok := t.Get("instance_selector"); ok {
		s, err := mvm.ChannelSelectorFrom(i.Val)
		if i.Check(err) {
			to.Selector = s
		}
	} else if to.TargetPort == 0 {
		t.Here().Problem("instance_selector is missing")
	}
	if i, ok := t.Get("target_port"); ok {
		i.IntInto(&to.TargetPort, 1, maxPort)
	} else if to.TargetPort == 0 {
		t.Here().Problem("target_port is missing")
	}
	need("path", &to.Path, nil)
	t.Str("accept", (*string)(&to.Accept), nil)
	t.Done()
}

// checkChannels finds targets that are not in the file, and secrets that its own table
// does not have.
func checkChannels(t *stricttoml.Table, p mvm.PoolSpec, ids map[string]bool, secrets map[string][]byte) {
	for n, c := range p.Channels {
		if c.To.PoolID != "" && !ids[c.To.PoolID] {
			t.Element("channels", n).Key("target").Key("pool_id").Problem("there is no pool %q in this file", c.To.PoolID)
		}
		for i, key := range []string{"secret", "verify_secret"}[:len(c.Secrets())] {
			name := c.Secrets()[i]
			if _, ok := secrets[name]; !ok && secrets != nil && name != "" {
				t.Element("channels", n).Key(key).Problem("%q is not one of the secrets in this file", name)
			}
		}
	}
}
