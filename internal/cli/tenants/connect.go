package tenants

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
)

func (a *app) connectCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "connect TENANT [-o FORMAT]", Short: "Show how to reach a tenant: addresses, headers and a command to try",
		Long: "Show how to reach a tenant: addresses, headers and a command to try.\n\nWith --remote the addresses have the name of that host. A port on that host's loopback is\nreachable only from that host, and the command says so.\n",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompleteTenants}
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
			info, err := connection(ctx, c, args[0])
			if err != nil {
				return err
			}
			return a.Print(*out, info, func() command.Table { return command.Prose(info.lines()) })
		})
	}
	return cmd
}

// connectInfo says how to reach a tenant's workloads.
type connectInfo struct {
	Tenant    string     `json:"tenant"`
	Endpoints []endpoint `json:"endpoints"`
	Bots      []bot      `json:"bots,omitempty"`
}

// bot is a channel of a gateway pool.
type bot struct {
	Pool    string          `json:"pool"`
	Channel string          `json:"channel"`
	Kind    mvm.ChannelKind `json:"kind"`
	Name    string          `json:"name,omitempty"` // on the platform
	Status  string          `json:"status"`
	Detail  string          `json:"detail,omitempty"`
}

// bots are the channels of the tenant's gateways, as their guests say how they are.
func bots(ctx context.Context, c *api.Client, pools []mvm.Pool) (out []bot, err error) {
	for _, p := range pools {
		if len(p.Spec.Channels) == 0 {
			continue
		}
		all, err := c.Instances(ctx, p.Address())
		if err != nil {
			return nil, err
		}
		for _, ch := range p.Spec.Channels {
			b := bot{Pool: p.Spec.ID, Channel: ch.Name, Kind: ch.Kind, Status: "not running"}
			for _, i := range all {
				if h := i.Health; h != nil {
					if n := slices.IndexFunc(h.Channels, func(c mvm.ChannelHealth) bool { return c.Name == ch.Name }); n >= 0 {
						b.Name, b.Status, b.Detail = h.Channels[n].Bot, string(h.Channels[n].Status), h.Channels[n].Detail
					}
				}
			}
			out = append(out, b)
		}
	}
	return out, nil
}

// line tells a person how to write to the bot.
func (b bot) line() string {
	who := b.Name
	if b.Kind == mvm.ChannelTelegram && strings.HasPrefix(who, "@") {
		who = "https://t.me/" + who[1:]
	}
	text := fmt.Sprintf("  %s  (channel %s of pool %s, %s)", cmp.Or(who, string(b.Kind)+" bot"), b.Channel, b.Pool, b.Status)
	if b.Detail != "" {
		text += ": " + b.Detail
	}
	return text
}

// endpoint is a route of a gateway on a published port.
type endpoint struct {
	Pool    string `json:"pool"`  // of the gateway
	Route   string `json:"route"` // its name
	Address string `json:"address"`
	// Only names the only host from which the address can be reached; empty: it can be
	// reached from here.
	Only string `json:"only_on_host,omitempty"`
	URL  string `json:"url,omitempty"` // for HTTP
	// Key says where a request names its user, when each has an instance of its own:
	// "header:<name>", "path", "query:<name>" or "json:<pointer>".
	Key string `json:"key,omitempty"`
	// Auth is how the route knows its users, when each has an instance of its own.
	Auth mvm.AuthMode `json:"auth,omitempty"`
	// Token says where the token for $TOKEN in the example is from.
	Token   string `json:"token,omitempty"`
	Example string `json:"example"`
}

// connection asks for the tenant's published routes.
func connection(ctx context.Context, c *api.Client, tenant string) (connectInfo, error) {
	t, _, err := c.Tenant(ctx, tenant)
	if err != nil {
		return connectInfo{}, err
	}
	pools, err := c.Pools(ctx, tenant)
	if err != nil {
		return connectInfo{}, err
	}
	info := connectInfo{Tenant: tenant, Endpoints: []endpoint{}}
	if info.Bots, err = bots(ctx, c, pools); err != nil {
		return connectInfo{}, err
	}
	for _, p := range pools {
		if p.Spec.Routes == nil {
			continue
		}
		for n, pub := range p.Spec.Publish {
			if n >= len(p.Bound) || !p.Bound[n].IsValid() {
				continue
			}
			for _, r := range p.Spec.Routes.Routes {
				if r.Match.Port == 0 || r.Match.Port == pub.Guest {
					info.Endpoints = append(info.Endpoints, newEndpoint(t, p, pools, r, reachable(p.Bound[n], c.RemoteHost())))
				}
			}
		}
	}
	return info, nil
}

func newEndpoint(t mvm.Tenant, p mvm.Pool, pools []mvm.Pool, r mvm.Route, at reach) endpoint {
	e := endpoint{Pool: p.Spec.ID, Route: r.Name, Address: at.address, Only: at.only}
	host, port, _ := net.SplitHostPort(e.Address)
	if !r.HTTP() {
		e.Example = "nc " + host + " " + port
		return e
	}
	e.URL = "http://" + e.Address + r.Match.PathPrefix
	if r.To.Selector.Kind == mvm.SelectByKey {
		e.Key, e.Auth = r.To.Selector.From, r.AuthMode()
	}
	chat := slices.ContainsFunc(pools, func(q mvm.Pool) bool {
		return q.Spec.ID == r.To.PoolID && strings.Contains(q.Spec.Flake, "openclaw")
	})
	e.Example = curl(e, r.Auth, chat)
	if chat {
		e.Token = tokenHint(t, mvm.Address{Tenant: t.ID, Pool: r.To.PoolID, Key: exampleUser})
	}
	return e
}

// tokenHint says where OpenClaw's token is from: the tenant's secret, else one that
// the instance has made on its data disk.
func tokenHint(t mvm.Tenant, user mvm.Address) string {
	const secret = "gateway_token"
	if slices.Contains(t.SecretNames, secret) {
		return "the tenant's secret " + secret
	}
	return "TOKEN=$(mvm exec " + user.String() + " -- cat /data/openclaw/gateway-token)"
}

// exampleUser names the user whose instance answers in examples.
const exampleUser = "me"

// reach is how a published port is reached.
type reach struct {
	address string
	only    string // the only host from which it can be; empty: from here
}

// reachable replaces "any address" by one that can be dialled. remote is the host of an
// agent elsewhere; empty: the ports are on this host.
func reachable(bound netip.AddrPort, remote string) reach {
	at := reach{address: bound.String()}
	ip := bound.Addr().Unmap()
	switch {
	case ip.IsUnspecified():
		at.address = net.JoinHostPort(cmp.Or(remote, "127.0.0.1"), strconv.Itoa(int(bound.Port())))
	case ip.IsLoopback() && remote != "" && !isLoopback(remote):
		at.only = remote
	}
	return at
}

// isLoopback reports whether a host is this one, by its own name for itself.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// curl writes a command to try; for OpenClaw it is a chat message.
func curl(e endpoint, auth *mvm.Auth, chat bool) string {
	parts := []string{"curl"}
	url := e.URL
	kind, name, _ := strings.Cut(e.Key, ":")
	if e.Auth == mvm.AuthJWT && kind != "path" { // the token names the user
		parts, kind = append(parts, tokenArgs(*auth)...), ""
	}
	switch kind {
	case "header":
		parts = append(parts, "-H", shellWord(name+": "+exampleUser))
	case "path":
		url = strings.TrimSuffix(url, "/") + "/" + exampleUser
	case "query":
		url += "?" + name + "=" + exampleUser
	}
	if chat {
		url = strings.TrimSuffix(url, "/") + "/v1/chat/completions"
		parts = append(parts, "-H", `"authorization: Bearer $TOKEN"`, "-H", `"content-type: application/json"`,
			"-d", `'{"model":"openclaw","messages":[{"role":"user","content":"hello"}]}'`)
	}
	return strings.Join(append(parts, shellWord(url)), " ")
}

// shellWord writes a word for a shell. What is in it is a tenant's: nothing of it may be
// a command of whoever tries the example.
func shellWord(s string) string {
	switch {
	case command.Plain(s):
		return s
	case !strings.ContainsAny(s, "\"$`\\!"):
		return `"` + s + `"`
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// tokenArgs give curl the token in $JWT, where the route looks for it.
func tokenArgs(a mvm.Auth) []string {
	kind, name, _ := strings.Cut(a.WithDefaults().Token, ":")
	switch {
	case kind == "cookie":
		return []string{"-b", `"` + name + `=$JWT"`}
	case strings.EqualFold(name, "authorization"):
		return []string{"-H", `"` + name + `: Bearer $JWT"`}
	}
	return []string{"-H", `"` + name + `: $JWT"`}
}

// authNote says who may name a user.
func authNote(m mvm.AuthMode) string {
	switch m {
	case mvm.AuthJWT:
		return "a signed token ($JWT below) names the user"
	case mvm.AuthProxy:
		return "only the trusted proxy may name a user"
	}
	return "auth none: anyone who reaches the address may name any user"
}

// lines tells it to a person.
func (c connectInfo) lines() []string {
	if len(c.Endpoints) == 0 && len(c.Bots) == 0 {
		return []string{"tenant " + c.Tenant + " publishes no port", "  publish one with `mvm pool update " + c.Tenant + "/GATEWAYS --publish 8080`"}
	}
	out := []string{"talk to " + c.Tenant + ":"}
	for _, b := range c.Bots {
		out = append(out, b.line())
	}
	for _, e := range c.Endpoints {
		at := e.URL
		if at == "" {
			at = e.Address
		}
		out = append(out, fmt.Sprintf("  %s  (gateway pool %s, route %s)", at, e.Pool, e.Route))
		if e.Only != "" {
			out = append(out, "  reachable only from "+e.Only+" itself: the port is on that host's loopback; publish it on another address to reach it from here")
		}
		if e.Key != "" {
			out = append(out, fmt.Sprintf("  each user, named by %s, has their own instance, created on the first request", strings.Replace(e.Key, ":", " ", 1)))
		}
		if e.Key != "" {
			out = append(out, "  "+authNote(e.Auth))
		}
		if e.Token != "" {
			out = append(out, "  token: "+e.Token)
		}
		out = append(out, "", "    "+e.Example, "")
	}
	return out[:len(out)-1]
}
