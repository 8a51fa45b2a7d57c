package mvm_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"mvm"
)

func chatPool() mvm.PoolSpec {
	return mvm.PoolSpec{ID: "gateways", Role: mvm.RoleGateway, Profile: "minimal", Flake: "builtin:gateway", Resources: mvm.DefaultResources(),
		Desired: mvm.Counts{Running: 1}, Policy: mvm.DefaultRuntimePolicy(),
		Channels: []mvm.Channel{{Name: "bot", Kind: mvm.ChannelTelegram, Secret: "telegram_token", Allow: []string{"123", "-100123"},
			To: mvm.ChannelTarget{PoolID: "workers", Selector: mvm.ChannelSelector{From: "fixed:alice"}, TargetPort: 8787, Path: "/hook"}}}}
}

func TestChannelsAreChecked(t *testing.T) {
	if err := chatPool().Validate(); err != nil {
		t.Fatal(err)
	}
	second := func(s *mvm.PoolSpec, change func(c *mvm.Channel)) {
		c := s.Channels[0]
		c.Name, c.Secret = "bot2", "other"
		change(&c)
		s.Channels = append(s.Channels, c)
	}
	for want, change := range map[string]func(s *mvm.PoolSpec){
		"channels are for pools with role gateway": func(s *mvm.PoolSpec) { s.Role = mvm.RoleWorker },
		"has one gateway":                          func(s *mvm.PoolSpec) { s.Desired.Running = 2 },
		"more than 16":                             func(s *mvm.PoolSpec) { s.Channels = slices.Repeat(s.Channels, 17) },
		"channel id \"Bot\"":                       func(s *mvm.PoolSpec) { s.Channels[0].Name = "Bot" },
		"kind \"matrix\" is not supported":         func(s *mvm.PoolSpec) { s.Channels[0].Kind = "matrix" },
		"secret name":                              func(s *mvm.PoolSpec) { s.Channels[0].Secret = "../x" },
		"allow is empty":                           func(s *mvm.PoolSpec) { s.Channels[0].Allow = nil },
		"\"@alice\" is not the numeric id":         func(s *mvm.PoolSpec) { s.Channels[0].Allow = []string{"@alice"} },
		"\"007\" is not":                           func(s *mvm.PoolSpec) { s.Channels[0].Allow = []string{"007"} },
		"allow has \"5\" twice":                    func(s *mvm.PoolSpec) { s.Channels[0].Allow = []string{"5", "5"} },
		"beside other entries":                     func(s *mvm.PoolSpec) { s.Channels[0].Allow = []string{"5", "*"} },
		"mode \"push\"":                            func(s *mvm.PoolSpec) { s.Channels[0].Mode = "push" },
		"port and url are for mode webhook":        func(s *mvm.PoolSpec) { s.Channels[0].Port = 8443 },
		"port 0 is not in":                         func(s *mvm.PoolSpec) { s.Channels[0].Mode = mvm.ChannelWebhook },
		"is not a public https address": func(s *mvm.PoolSpec) {
			s.Channels[0].Mode, s.Channels[0].Port, s.Channels[0].URL = mvm.ChannelWebhook, 8443, "http://x/y"
		},
		"api_root":                                   func(s *mvm.PoolSpec) { s.Channels[0].APIRoot = "https://api.telegram.org/bot123" },
		"proxy_port 70000":                           func(s *mvm.PoolSpec) { s.Channels[0].ProxyPort = 70000 },
		"target_port 0":                              func(s *mvm.PoolSpec) { s.Channels[0].To.TargetPort = 0 },
		"path \"hook\" must start":                   func(s *mvm.PoolSpec) { s.Channels[0].To.Path = "hook" },
		"accept \"maybe\"":                           func(s *mvm.PoolSpec) { s.Channels[0].To.Accept = "maybe" },
		"by_key from \"path\"":                       func(s *mvm.PoolSpec) { s.Channels[0].To.Selector.From = "path" },
		"channel \"bot\" is given twice":             func(s *mvm.PoolSpec) { second(s, func(c *mvm.Channel) { c.Name = "bot" }) },
		"channels bot and bot2 have the same secret": func(s *mvm.PoolSpec) { second(s, func(c *mvm.Channel) { c.Secret = "telegram_token" }) },
		"port 8081 is that of a route too":           func(s *mvm.PoolSpec) { s.Publish = []mvm.Publish{publish("8081")} },
		"port 8443 is that of a webhook too": func(s *mvm.PoolSpec) {
			hook := func(c *mvm.Channel) { c.Mode, c.Port, c.URL = mvm.ChannelWebhook, 8443, "https://x/y" }
			hook(&s.Channels[0])
			second(s, hook)
		},
	} {
		s := chatPool()
		change(&s)
		if err := s.Validate(); !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func publish(s string) mvm.Publish {
	p, err := mvm.ParsePublish(s)
	if err != nil {
		panic(err)
	}
	return p
}

func TestChannelsLeadWhereTheySay(t *testing.T) {
	c := chatPool().Channels[0]
	for _, x := range []struct {
		from, pool, key string
		want            bool
	}{
		{"fixed:alice", "workers", "alice", true}, {"fixed:alice", "workers", "bob", false}, {"fixed:alice", "workers", "", false},
		{"fixed:alice", "gateways", "alice", false}, {"chat", "workers", "42", true}, {"chat", "workers", "", false}, {"", "workers", "", true}, {"", "workers", "42", false},
	} {
		c.To.Selector.From = x.from
		if got := c.LeadTo(x.pool, x.key); got != x.want {
			t.Errorf("from %q to pool %s key %q: %v", x.from, x.pool, x.key, got)
		}
	}
}

func TestChannelSelectorForm(t *testing.T) {
	for text, from := range map[string]string{`"any"`: "", `{"by_key":{"from":"chat"}}`: "chat", `{"by_key":{"from":"fixed:a@b"}}`: "fixed:a@b"} {
		var s mvm.ChannelSelector
		if err := json.Unmarshal([]byte(text), &s); err != nil || s.From != from {
			t.Errorf("%s: %+v, %v", text, s, err)
		}
		if b, err := json.Marshal(s); err != nil || string(b) != text {
			t.Errorf("%s became %s, %v", text, b, err)
		}
	}
	for _, text := range []string{`"least_connections"`, `{"by_key":{"from":"path"}}`, `{"by_key":{}}`, `{"by_key":{"from":"fixed:"}}`, `{"by_key":{"from":"chat","x":1}}`, `{"by_ip":"10.0.0.1"}`, `1`} {
		var s mvm.ChannelSelector
		if err := json.Unmarshal([]byte(text), &s); err == nil {
			t.Errorf("%s was taken as %+v", text, s)
		}
	}
}

// TestChannelsThatKeep: what the kinds that keep messages need, and what is of others.
func TestChannelsThatKeep(t *testing.T) {
	pool := func(kind mvm.ChannelKind, change func(s *mvm.PoolSpec, c *mvm.Channel)) mvm.PoolSpec {
		s := chatPool()
		s.Resources.DataDiskMiB = 512
		c := &s.Channels[0]
		c.Kind, c.Mode, c.Port, c.Allow, c.Secret = kind, mvm.ChannelWebhook, 8443, []string{"U1", "user@example.org"}, "signing"
		switch kind {
		case mvm.ChannelWhatsApp:
			c.VerifySecret = "verify"
		case mvm.ChannelHook:
			c.ChatFrom, c.SenderFrom, c.IDFrom = "json:/a~1b/0", "header:X-Sender_Id", "header:X-Id"
		}
		if change != nil {
			change(&s, c)
		}
		return s
	}
	for _, kind := range []mvm.ChannelKind{mvm.ChannelSlack, mvm.ChannelWhatsApp, mvm.ChannelLine, mvm.ChannelHook} {
		if err := pool(kind, nil).Validate(); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	shared := pool(mvm.ChannelSlack, func(s *mvm.PoolSpec, c *mvm.Channel) {
		second := *c
		second.Name, second.Secret = "second", "other"
		s.Channels = append(s.Channels, second)
	})
	if err := shared.Validate(); err != nil || shared.Channels[0].HookPath() != "/bot" || shared.Channels[1].HookPath() != "/second" {
		t.Errorf("two at one port: %v", err)
	}
	slack, hook := mvm.ChannelSlack, mvm.ChannelHook
	for want, s := range map[string]mvm.PoolSpec{
		"data_disk_mib":                  pool(slack, func(s *mvm.PoolSpec, _ *mvm.Channel) { s.Resources.DataDiskMiB = 0 }),
		"has no mode polling":            pool(slack, func(_ *mvm.PoolSpec, c *mvm.Channel) { c.Mode = mvm.ChannelPolling }),
		"port 0":                         pool(slack, func(_ *mvm.PoolSpec, c *mvm.Channel) { c.Port = 0 }),
		"for kind telegram":              pool(slack, func(_ *mvm.PoolSpec, c *mvm.Channel) { c.APIRoot = "https://x" }),
		"verify_secret is for":           pool(slack, func(_ *mvm.PoolSpec, c *mvm.Channel) { c.VerifySecret = "x" }),
		"are for kind webhook":           pool(slack, func(_ *mvm.PoolSpec, c *mvm.Channel) { c.ChatFrom = "json:/x" }),
		"verify_secret is missing":       pool(mvm.ChannelWhatsApp, func(_ *mvm.PoolSpec, c *mvm.Channel) { c.VerifySecret = "" }),
		"the same secret":                pool(mvm.ChannelWhatsApp, func(_ *mvm.PoolSpec, c *mvm.Channel) { c.VerifySecret = c.Secret }),
		"auth \"basic\"":                 pool(hook, func(_ *mvm.PoolSpec, c *mvm.Channel) { c.Auth = "basic" }),
		"id_from \"path\"":               pool(hook, func(_ *mvm.PoolSpec, c *mvm.Channel) { c.IDFrom = "path" }),
		"chat_from \"json:x\"":           pool(hook, func(_ *mvm.PoolSpec, c *mvm.Channel) { c.ChatFrom = "json:x" }),
		"sender_from \"header:a b\"":     pool(hook, func(_ *mvm.PoolSpec, c *mvm.Channel) { c.SenderFrom = "header:a b" }),
		"nothing says who the sender is": pool(hook, func(_ *mvm.PoolSpec, c *mvm.Channel) { c.SenderFrom = "" }),
		"nothing says what the chat is":  pool(hook, func(_ *mvm.PoolSpec, c *mvm.Channel) { c.ChatFrom, c.To.Selector.From = "", mvm.KeyFromChat }),
		"nothing says who that is": pool(hook, func(_ *mvm.PoolSpec, c *mvm.Channel) {
			c.SenderFrom, c.Allow, c.To.Selector.From = "", []string{"*"}, mvm.KeyFromSender
		}),
		"has a character":                  pool(slack, func(_ *mvm.PoolSpec, c *mvm.Channel) { c.Allow = []string{"a b"} }),
		"port 8443 is that of a route too": pool(slack, func(s *mvm.PoolSpec, _ *mvm.Channel) { s.Routes = routesAt(8443) }),
		"port 8443 is that of a webhook too": pool(slack, func(s *mvm.PoolSpec, c *mvm.Channel) {
			second := *c
			second.Name, second.Secret, second.URL = "second", "other", "https://x/bot"
			s.Channels = append(s.Channels, second)
		}),
	} {
		if err := s.Validate(); !mvm.IsKind(err, mvm.KindInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func routesAt(port int) *mvm.RoutingTable {
	return &mvm.RoutingTable{Routes: []mvm.Route{{Name: "r", Match: mvm.MatchRule{Port: port}, To: mvm.Target{PoolID: "workers", Selector: mvm.Selector{Kind: mvm.SelectAny}, TargetPort: 80}}}}
}
