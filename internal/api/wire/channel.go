package wire

import "mvm"

// Channel is mvm.Channel on the wire.
type Channel struct {
	Name         string          `json:"name"`
	Kind         mvm.ChannelKind `json:"kind"`
	Secret       string          `json:"secret"`
	Mode         mvm.ChannelMode `json:"mode,omitempty"`
	Allow        []string        `json:"allow"`
	To           ChannelTarget   `json:"target"`
	Port         int             `json:"port,omitempty"`
	URL          string          `json:"url,omitempty"`
	ProxyPort    int             `json:"proxy_port,omitempty"`
	APIRoot      string          `json:"api_root,omitempty"`
	VerifySecret string          `json:"verify_secret,omitempty"`
	Auth         mvm.HookAuth    `json:"auth,omitempty"`
	IDFrom       string          `json:"id_from,omitempty"`
	ChatFrom     string          `json:"chat_from,omitempty"`
	SenderFrom   string          `json:"sender_from,omitempty"`
}

// Of returns the noun on the wire.
func (Channel) Of(n mvm.Channel) Channel {
	return Channel{
		Name: n.Name, Kind: n.Kind, Secret: n.Secret, Mode: n.Mode, Allow: n.Allow, To: ChannelTarget{}.Of(n.To), Port: n.Port, URL: n.URL,
		ProxyPort: n.ProxyPort, APIRoot: n.APIRoot, VerifySecret: n.VerifySecret, Auth: n.Auth, IDFrom: n.IDFrom, ChatFrom: n.ChatFrom,
		SenderFrom: n.SenderFrom,
	}
}

// Noun returns the noun.
func (w Channel) Noun() mvm.Channel {
	return mvm.Channel{
		Name: w.Name, Kind: w.Kind, Secret: w.Secret, Mode: w.Mode, Allow: w.Allow, To: w.To.Noun(), Port: w.Port, URL: w.URL,
		ProxyPort: w.ProxyPort, APIRoot: w.APIRoot, VerifySecret: w.VerifySecret, Auth: w.Auth, IDFrom: w.IDFrom, ChatFrom: w.ChatFrom,
		SenderFrom: w.SenderFrom,
	}
}

// ChannelTarget is mvm.ChannelTarget on the wire.
type ChannelTarget struct {
	PoolID     string              `json:"pool_id"`
	Selector   mvm.ChannelSelector `json:"instance_selector"`
	TargetPort int                 `json:"target_port"`
	Path       string              `json:"path"`
	Accept     mvm.ChannelAccept   `json:"accept,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (ChannelTarget) Of(n mvm.ChannelTarget) ChannelTarget { return ChannelTarget(n) }
func (w ChannelTarget) Noun() mvm.ChannelTarget            { return mvm.ChannelTarget(w) }
