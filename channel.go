package mvm

import (
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Channel is a chat whose messages a gateway pool receives and delivers to workers. The
// gateway holds the secret; no other guest of the tenant gets it.
type Channel struct {
	Name   string      `json:"name"`
	Kind   ChannelKind `json:"kind"`
	Secret string      `json:"secret"` // name of a secret of the tenant
	Mode   ChannelMode `json:"mode,omitempty"`
	// Allow lists the senders, and the groups, whose messages are delivered. AllowAll alone
	// allows everybody.
	Allow []string      `json:"allow"`
	To    ChannelTarget `json:"target"`
	// Port is the gateway's port, and URL the public address, at which the platform
	// delivers messages in mode webhook.
	Port int    `json:"port,omitempty"`
	URL  string `json:"url,omitempty"`
	// ProxyPort is the gateway's port at which the workers reach the platform; 0:
	// DefaultProxyPort.
	ProxyPort int `json:"proxy_port,omitempty"`
	// APIRoot is the platform's address; empty: the public one.
	APIRoot string `json:"api_root,omitempty"`
	// VerifySecret names the secret with which WhatsApp verifies the address.
	VerifySecret string `json:"verify_secret,omitempty"`
	// Of kind webhook: how a request shows that it may come, and where it has the id of its
	// message, the chat and the sender.
	Auth       HookAuth `json:"auth,omitempty"`
	IDFrom     string   `json:"id_from,omitempty"`
	ChatFrom   string   `json:"chat_from,omitempty"`
	SenderFrom string   `json:"sender_from,omitempty"`
}

// ChannelKind is the platform of a channel.
type ChannelKind string

// ChannelTelegram is the Telegram Bot API, which keeps messages until they are confirmed.
const ChannelTelegram ChannelKind = "telegram"

// ChannelMode is how messages arrive.
type ChannelMode string

// The modes. Empty is ChannelPolling.
const (
	ChannelPolling ChannelMode = "polling"
	ChannelWebhook ChannelMode = "webhook"
)

// ChannelTarget is where a channel's messages go: the path and port of an instance.
type ChannelTarget struct {
	PoolID     string          `json:"pool_id"`
	Selector   ChannelSelector `json:"instance_selector"`
	TargetPort int             `json:"target_port"`
	Path       string          `json:"path"`
	// Accept is the answer that counts as delivered.
	Accept ChannelAccept `json:"accept,omitempty"`
}

// ChannelAccept is the answer of a worker that counts as delivered.
type ChannelAccept string

// AcceptOK takes any status 2xx and is what empty means. AcceptDurable also asks for the
// header "X-Openclaw-Delivery-Accepted: durable".
const (
	AcceptOK      ChannelAccept = "ok"
	AcceptDurable ChannelAccept = "durable"
)

// ChannelSelector chooses the instance for a message: "any", or {"by_key":{"from":"…"}}
// with "chat", "sender" or "fixed:<key>".
type ChannelSelector struct {
	From string // empty: any
}

// The sources of a key.
const (
	KeyFromChat   = "chat"
	KeyFromSender = "sender"
	keyFixed      = "fixed:"
)

// Fixed returns the key of "fixed:<key>".
func (s ChannelSelector) Fixed() (key string, ok bool) { return strings.CutPrefix(s.From, keyFixed) }

// MarshalJSON writes the externally tagged form.
func (s ChannelSelector) MarshalJSON() ([]byte, error) {
	if s.From == "" {
		return json.Marshal(SelectAny)
	}
	return json.Marshal(map[string]map[string]string{"by_key": {"from": s.From}})
}

// UnmarshalJSON reads the externally tagged form, strictly.
func (s *ChannelSelector) UnmarshalJSON(b []byte) error {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	got, err := ChannelSelectorFrom(v)
	if err == nil {
		*s = got
	}
	return err
}

// ChannelSelectorFrom reads a selector from its decoded JSON or TOML form.
func ChannelSelectorFrom(v any) (s ChannelSelector, err error) {
	switch v := v.(type) {
	case string:
		if v == string(SelectAny) {
			return s, nil
		}
	case map[string]any:
		if m, ok := v["by_key"].(map[string]any); ok && len(v) == 1 && len(m) == 1 {
			if from, ok := m["from"].(string); ok && from != "" {
				s.From = from
				return s, s.Validate()
			}
		}
	}
	return s, Errorf(KindInvalid, `instance_selector must be "any" or {"by_key":{"from":"…"}}`).
		WithFix(`use from = "chat", "sender" or "fixed:<key>"`)
}

// Validate checks the selector.
func (s ChannelSelector) Validate() error {
	switch s.From {
	case "", KeyFromChat, KeyFromSender:
		return nil
	}
	if key, ok := s.Fixed(); ok {
		return ValidateKey(key)
	}
	return Errorf(KindInvalid, "instance_selector by_key from %q is not chat, sender or fixed:<key>", clip(s.From))
}

// AllowAll in Allow stands for everybody.
const AllowAll = "*"

// Bounds of channels.
const (
	MaxChannels      = 16 // of a pool
	MaxChannelAllow  = 1000
	maxChannelText   = 512 // bytes of a path or an address
	DefaultProxyPort = 8081
)

// Polls reports whether the gateway connects to the platform to get messages, and not the
// platform to the gateway.
func (c Channel) Polls() bool { return c.Mode != ChannelWebhook }

// Proxy is the gateway's port at which the workers reach the platform.
func (c Channel) Proxy() int {
	if c.ProxyPort == 0 {
		return DefaultProxyPort
	}
	return c.ProxyPort
}

// Open reports whether the channel allows everybody.
func (c Channel) Open() bool { return slices.Contains(c.Allow, AllowAll) }

// Validate checks one channel by itself.
func (c Channel) Validate() error {
	if err := ValidateName("channel", c.Name); err != nil {
		return err
	}
	for _, check := range []func() error{c.validateKind, c.validateHook, c.validateAllow, c.validateAddresses, c.validateWebhook, c.To.validate} {
		if err := check(); err != nil {
			return Errorf(KindOf(err), "channel %s: %w", c.Name, err)
		}
	}
	return nil
}

func (c Channel) validateKind() error {
	if err := ValidateChannelKind(string(c.Kind)); err != nil {
		return err
	}
	return ValidateSecretName(c.Secret)
}

// ValidateChannelKind checks that there is such a kind of channel.
func ValidateChannelKind(kind string) error {
	switch ChannelKind(kind) {
	case ChannelTelegram, ChannelDiscord, ChannelSlack, ChannelWhatsApp, ChannelLine, ChannelHook:
		return nil
	}
	return Errorf(KindInvalid, "kind %q is not supported", clip(kind)).WithFix("use telegram, discord, slack, whatsapp, line or webhook")
}

func (c Channel) validateAllow() error {
	switch {
	case len(c.Allow) == 0:
		return Errorf(KindInvalid, "allow is empty, so no message would be delivered").
			WithFix(`list the ids of senders and groups, or allow everybody with ["*"]`)
	case len(c.Allow) > MaxChannelAllow:
		return Errorf(KindInvalid, "allow has %d entries, more than %d", len(c.Allow), MaxChannelAllow)
	}
	seen := map[string]bool{}
	for _, a := range c.Allow {
		if err := ValidateChannelAllow(c.Kind, a); err != nil {
			return err
		}
		if seen[a] {
			return Errorf(KindInvalid, "allow has %q twice", a)
		}
		seen[a] = true
	}
	if seen[AllowAll] && len(seen) > 1 {
		return Errorf(KindInvalid, `allow has "*" beside other entries, which then mean nothing`).WithFix(`use ["*"] alone, or remove it`)
	}
	return nil
}

// ValidateChannelAllow checks one entry of an allowlist: the platform's id of a sender or
// group, or "*". Telegram's and Discord's ids are numbers, and those of Telegram's groups
// negative.
func ValidateChannelAllow(kind ChannelKind, a string) error {
	switch kind {
	case ChannelSlack, ChannelWhatsApp, ChannelLine, ChannelHook:
		return ValidateKey(a)
	case ChannelDiscord:
		if n, err := strconv.ParseUint(a, 10, 63); a == AllowAll || err == nil && n != 0 && strconv.FormatUint(n, 10) == a {
			return nil
		}
		return Errorf(KindInvalid, `allow: %q is not the numeric id of a user, channel or server, or "*"`, clip(a)).
			WithFix("in Discord, turn on Developer Mode in Advanced settings, then right-click and choose Copy ID")
	}
	n, err := strconv.ParseInt(a, 10, 64)
	if a == AllowAll || err == nil && n != 0 && strconv.FormatInt(n, 10) == a {
		return nil
	}
	return Errorf(KindInvalid, `allow: %q is not the numeric id of a sender or group, or "*"`, clip(a)).
		WithFix("names of users can change hands; write to @userinfobot to learn an id")
}

func (c Channel) validateAddresses() error {
	if c.ProxyPort < 0 || c.ProxyPort > 65535 {
		return Errorf(KindInvalid, "proxy_port %d is not in 1..65535", c.ProxyPort)
	}
	if c.APIRoot == "" {
		return nil
	}
	u, err := url.Parse(c.APIRoot)
	if err != nil || len(c.APIRoot) > maxChannelText || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" ||
		u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Contains(u.Path, "/bot") {
		example, fix := "https://api.telegram.org", "give the address of the Bot API server, without /bot and the token"
		if c.Kind == ChannelDiscord {
			example, fix = "https://discord.com/api/v10", "give the address of the API with its version"
		}
		return Errorf(KindInvalid, "api_root %q is not an address such as %s", clip(c.APIRoot), example).WithFix("%s", fix)
	}
	return nil
}

func (c Channel) validateWebhook() error {
	if c.Kind == ChannelDiscord {
		if c.Mode != "" || c.Port != 0 || c.URL != "" {
			return Errorf(KindInvalid, "mode, port and url are not for kind discord: the gateway connects to Discord").WithFix("remove them")
		}
		return nil
	}
	switch c.Mode {
	case "", ChannelPolling:
		if c.Keeps() {
			return Errorf(KindInvalid, "kind %s has no mode %s", c.Kind, ChannelPolling).WithFix(`set mode = "webhook"`)
		}
		if c.Port != 0 || c.URL != "" {
			return Errorf(KindInvalid, "port and url are for mode webhook").WithFix(`set mode = "webhook", or remove them`)
		}
		return nil
	case ChannelWebhook:
	default:
		return Errorf(KindInvalid, "mode %q is not polling or webhook", clip(string(c.Mode)))
	}
	if c.Port < 1 || c.Port > 65535 {
		return Errorf(KindInvalid, "port %d is not in 1..65535", c.Port).WithFix("mode webhook needs the gateway's port that receives the messages")
	}
	if c.Keeps() && c.URL == "" { // nobody has to be told
		return nil
	}
	if !c.Keeps() && c.Port == c.Proxy() {
		return Errorf(KindInvalid, "port and proxy_port are both %d", c.Port)
	}
	u, err := url.Parse(c.URL)
	if err != nil || len(c.URL) > maxChannelText || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		u.Scheme != "https" && (u.Scheme != "http" || c.APIRoot == "") {
		return Errorf(KindInvalid, "url %q is not a public https address", clip(c.URL)).
			WithFix("give the address that leads to the published port, such as https://bots.example.org/alice")
	}
	return nil
}

func (t ChannelTarget) validate() error {
	if err := ValidateName("pool", t.PoolID); err != nil {
		return err
	}
	switch {
	case t.TargetPort < 1 || t.TargetPort > 65535:
		return Errorf(KindInvalid, "target_port %d is not in 1..65535", t.TargetPort)
	case !validChannelPath(t.Path):
		return Errorf(KindInvalid, "path %q must start with / and have at most %d bytes of printable ASCII without ? and #", clip(t.Path), maxChannelText)
	case t.Accept != "" && t.Accept != AcceptOK && t.Accept != AcceptDurable:
		return Errorf(KindInvalid, "accept %q is not ok or durable", clip(string(t.Accept)))
	}
	return t.Selector.Validate()
}

func validChannelPath(p string) bool {
	return strings.HasPrefix(p, "/") && len(p) <= maxChannelText &&
		strings.IndexFunc(p, func(r rune) bool { return r <= ' ' || r > '~' || r == '?' || r == '#' }) < 0
}

// validateChannels checks the channels of a pool together.
func (s PoolSpec) validateChannels() error {
	switch {
	case len(s.Channels) == 0:
		return nil
	case s.Role != RoleGateway:
		return Errorf(KindInvalid, "channels are for pools with role gateway, not %s", s.Role)
	case len(s.Channels) > MaxChannels:
		return Errorf(KindInvalid, "%d channels are more than %d", len(s.Channels), MaxChannels)
	case s.Desired.Running > 1 || s.Desired.Warm > 0 || s.Desired.Sleeping > 0:
		return Errorf(KindInvalid, "a pool with channels has one gateway, and %d running, %d warm, %d sleeping are desired",
			s.Desired.Running, s.Desired.Warm, s.Desired.Sleeping).WithFix("set desired_running to 1 and the others to 0; two gateways would compete for the messages")
	}
	total := 0
	names, secrets, ports := map[string]bool{}, map[string]string{}, map[string]string{}
	for _, p := range s.routePorts() {
		ports[strconv.Itoa(p)] = usedByRoute
	}
	for _, c := range s.Channels {
		if err := c.Validate(); err != nil {
			return err
		}
		if names[c.Name] {
			return Errorf(KindInvalid, "channel %q is given twice", c.Name)
		}
		for _, secret := range c.Secrets() {
			if other := secrets[secret]; other != "" {
				return Errorf(KindInvalid, "channels %s and %s have the same secret: a bot has one channel", other, c.Name)
			}
			secrets[secret] = c.Name
		}
		names[c.Name] = true
		if total += len(c.Allow); total > MaxChannelAllow {
			return Errorf(KindInvalid, "the channels allow %d senders and groups together, more than %d", total, MaxChannelAllow)
		}
		if err := s.validatePorts(c, ports); err != nil {
			return err
		}
	}
	return nil
}

// validatePorts checks a channel's ports against what others use, and adds them.
func (s PoolSpec) validatePorts(c Channel, used map[string]string) error {
	if c.Keeps() && s.Resources.DataDiskMiB == 0 {
		return Errorf(KindInvalid, "channel %s: a gateway keeps the messages of kind %s on its data disk, and the pool has none", c.Name, c.Kind).
			WithFix("set data_disk_mib, to 512 for example")
	}
	at := func(port int) string { return strconv.Itoa(port) }
	taken := func(port int, by string) error {
		return Errorf(KindInvalid, "channel %s: port %d is that of %s too", c.Name, port, by)
	}
	if c.Port != 0 {
		hook := at(c.Port) + c.HookPath()
		if by := used[at(c.Port)]; by != "" && (by != usedByHook || used[hook] != "") {
			return taken(c.Port, by)
		}
		used[at(c.Port)], used[hook] = usedByHook, usedByHook
	}
	if c.Keeps() {
		return nil
	}
	if by := used[at(c.Proxy())]; by != "" && by != usedByProxy {
		return taken(c.Proxy(), by)
	}
	used[at(c.Proxy())] = usedByProxy
	return nil
}

// What uses a gateway's port.
const (
	usedByRoute = "a route"
	usedByHook  = "a webhook"
	usedByProxy = "a proxy"
)

// routePorts are the ports on which the gateway routes requests.
func (s PoolSpec) routePorts() []int {
	var out []int
	if s.Routes != nil {
		out = s.Routes.Ports()
	}
	for _, p := range s.Publish {
		if !slices.ContainsFunc(s.Channels, func(c Channel) bool { return c.Port == p.Guest }) {
			out = append(out, p.Guest)
		}
	}
	return out
}

// LeadTo reports whether a route or channel of the pool may lead to this instance of the
// other pool; see RoutingTable.LeadTo.
func (c Channel) LeadTo(pool, key string) bool {
	if c.To.PoolID != pool {
		return false
	}
	if fixed, ok := c.To.Selector.Fixed(); ok {
		return key == fixed
	}
	return (key != "") == (c.To.Selector.From != "")
}
