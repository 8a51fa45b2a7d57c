package tenants

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
)

func (a *app) poolCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "pool COMMAND", Short: "Pools: groups of instances with the same image and size", Args: cobra.ArbitraryArgs, RunE: command.Group}
	cmd.AddCommand(a.poolCreateCmd(), a.poolListCmd(), a.poolInfoCmd(), a.poolBuildCmd(), a.poolScaleCmd(),
		a.poolUpdateCmd(), a.poolRestartCmd(), a.poolRollbackCmd(), a.poolGCCmd(), a.poolDestroyCmd())
	return cmd
}

func (a *app) poolListCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "list [TENANT] [-o FORMAT]", Aliases: []string{"ls"}, Short: "List pools",
		Long: "List pools. RUNNING, WARM and SLEEPING show the number of instances in that state and the\ndesired number. OTHER counts instances that are stopped or were never started.\n",
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.CompleteTenants}
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		tenant := ""
		if len(args) == 1 {
			tenant = args[0]
			if err := mvm.ValidateName("tenant", tenant); err != nil {
				return err
			}
		}
		return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
			ps, err := c.Pools(ctx, tenant)
			if err != nil {
				return err
			}
			return a.Print(*out, ps, func() command.Table { return a.poolTable(ps) })
		})
	}
	return cmd
}

func (a *app) poolTable(ps []mvm.Pool) command.Table {
	t := command.Table{Head: []string{"POOL", "ROLE", "IMAGE", "VCPUS", "MEMORY", "DISK", "RUNNING", "WARM", "SLEEPING", "OTHER", "BUILD", "AGE"}, None: "no pools"}
	for _, p := range ps {
		s, build := p.Spec, "-"
		if len(p.Builds) > 0 {
			build = p.Builds[0].ID
		}
		t.Add(p.Address().String(), string(s.Role), s.Flake, strconv.Itoa(s.Resources.VCPUs), command.Size(int64(s.Resources.MemMiB)<<20),
			command.Size(int64(s.Resources.DataDiskMiB)<<20),
			actual(p, mvm.StateRunning, s.Desired.Running), actual(p, mvm.StateWarm, s.Desired.Warm), actual(p, mvm.StateSleeping, s.Desired.Sleeping),
			strconv.Itoa(others(p)), build, a.Ago(p.Created))
	}
	return t
}

// actual says how many instances there are in the state, of how many are desired.
func actual(p mvm.Pool, s mvm.State, desired int) string {
	return fmt.Sprintf("%d/%d", p.Instances[s], desired)
}

// others counts the instances in states that are not desired of a pool.
func others(p mvm.Pool) (n int) {
	for s, k := range p.Instances {
		if s != mvm.StateRunning && s != mvm.StateWarm && s != mvm.StateSleeping {
			n += k
		}
	}
	return n
}

// actualText says how many instances of a pool are in which state.
func actualText(p mvm.Pool) string {
	text := fmt.Sprintf("%d running, %d warm, %d sleeping", p.Instances[mvm.StateRunning], p.Instances[mvm.StateWarm], p.Instances[mvm.StateSleeping])
	for _, s := range []mvm.State{mvm.StateStopped, mvm.StateReady, mvm.StateCreated} {
		if n := p.Instances[s]; n > 0 {
			text += fmt.Sprintf(", %d %s", n, s)
		}
	}
	return text
}

func (a *app) poolInfoCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "info TENANT/POOL [-o FORMAT]", Short: "Show a pool, its environment, routes, builds and published ports",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompletePools}
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.OnPool(cmd, args[0], func(ctx context.Context, c *api.Client, at mvm.Address) error {
			p, err := c.Pool(ctx, at.Tenant, at.Pool)
			if err != nil {
				return err
			}
			return a.Print(*out, p, func() command.Table { return a.poolInfoTable(p) })
		})
	}
	return cmd
}

func (a *app) poolInfoTable(p mvm.Pool) command.Table {
	var t command.Table
	s := p.Spec
	t.Add("pool", p.Address().String())
	t.Add("role", fmt.Sprintf("%s, profile %s", s.Role, s.Profile))
	t.Add("image", s.Flake)
	t.Add("size", fmt.Sprintf("%s, %s memory, data disk %s", command.Plural(s.Resources.VCPUs, "vcpu", "vcpus"),
		command.Size(int64(s.Resources.MemMiB)<<20), command.Size(int64(s.Resources.DataDiskMiB)<<20)))
	t.Add("desired", fmt.Sprintf("%d running, %d warm, %d sleeping", s.Desired.Running, s.Desired.Warm, s.Desired.Sleeping))
	t.Add("actual", actualText(p))
	if p.Health != nil {
		t.Add("health", p.Health.Text())
		for _, trouble := range p.Health.Troubles {
			t.Add("failing", trouble)
		}
	}
	t.Add("pinned", command.YesNo(s.Pinned))
	t.Add("critical", command.YesNo(s.Critical))
	t.Add("egress", command.Dash(strings.Join(s.Egress, ", ")))
	t.Add("peers", command.YesNo(s.Peers))
	t.Add("missed timers", string(cmp.Or(s.WakeCatchUp, mvm.CatchUpOnce)))
	addPolicy(&t, s.Policy)
	addLimits(&t, s, p.InForce)
	for i, pub := range s.Publish {
		if i < len(p.Bound) && p.Bound[i].IsValid() {
			t.Add("published", fmt.Sprintf("%s -> port %d%s", p.Bound[i], pub.Guest, proxied(pub)))
		} else {
			t.Add("not published", fmt.Sprintf("%s -> port %d%s", pub.Host, pub.Guest, proxied(pub)))
		}
	}
	if p.Building != "" {
		t.Add("waits for", fmt.Sprintf("build %s: see `mvm builds logs -f %s`", p.Building, p.Building))
	}
	for _, problem := range []string{p.Problem, p.Unpublished} {
		if problem != "" {
			t.Add("problem", problem)
		}
	}
	for _, w := range p.Warnings {
		t.Add("warning", w)
	}
	if s.Routes != nil {
		for _, r := range s.Routes.Routes {
			t.Add("route", routeText(r))
		}
	}
	for _, c := range s.Channels {
		t.Add("channel", channelText(c))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Env)) {
		t.Add("env", name+"="+s.Env[name])
	}
	for _, scope := range s.SecretScopes {
		t.Add("secrets of "+scope.Integration, strings.Join(scope.Keys, ", "))
	}
	for i, b := range p.Builds {
		t.Add([]string{"build", "before"}[min(i, 1)], fmt.Sprintf("%s  %s  %s  %s ago", b.ID, command.Clip(b.Digest, 19), b.Flake, a.Ago(b.Built)))
	}
	return t
}

func routeText(r mvm.Route) string {
	var when []string
	if r.Match.Port != 0 {
		when = append(when, fmt.Sprintf("port %d", r.Match.Port))
	}
	if r.Match.PathPrefix != "" {
		when = append(when, "path "+r.Match.PathPrefix)
	}
	if r.Match.SourceCIDR != "" {
		when = append(when, "from "+r.Match.SourceCIDR)
	}
	how := string(r.To.Selector.Kind)
	switch r.To.Selector.Kind {
	case mvm.SelectByKey:
		how += " " + r.To.Selector.From
	case mvm.SelectByIP:
		how += " " + r.To.Selector.IP.String()
	}
	if r.Auth != nil {
		how += ", auth " + authText(*r.Auth)
	}
	if len(r.TrustedProxies) > 0 {
		how += ", trusts the proxies at " + rangesText(r.TrustedProxies)
	}
	return fmt.Sprintf("%s: %s -> %s port %d, %s", r.Name, strings.Join(when, ", "), r.To.PoolID, r.To.TargetPort, how)
}

// authText says how a route knows its users.
func authText(a mvm.Auth) string {
	switch a = a.WithDefaults(); a.Mode {
	case mvm.AuthJWT:
		return fmt.Sprintf("jwt %s, claim %s, keys %s", a.Algorithm, a.Claim, strings.Join(a.Keys, ", "))
	case mvm.AuthProxy:
		return "by the proxy at " + rangesText(a.Trusted)
	}
	return string(a.Mode)
}

func rangesText(ranges []netip.Prefix) string {
	var out []string
	for _, p := range ranges {
		out = append(out, p.String())
	}
	return strings.Join(out, ", ")
}

// proxied says whose PROXY headers count at the port.
func proxied(p mvm.Publish) string {
	if p.ProxyFrom == "" {
		return ""
	}
	return ", PROXY v2 from " + strings.ReplaceAll(p.ProxyFrom, ",", ", ")
}

func channelText(c mvm.Channel) string {
	how := "polling"
	if c.Kind == mvm.ChannelDiscord {
		how = "gateway connection"
	}
	if !c.Polls() {
		at := c.URL
		if at == "" {
			at = c.HookPath()
		}
		how = fmt.Sprintf("webhook %s at port %d", at, c.Port)
	}
	key := "any instance"
	if c.To.Selector.From != "" {
		key = "by key " + c.To.Selector.From
	}
	who := "everybody"
	if !c.Open() {
		who = command.Plural(len(c.Allow), "sender or group", "senders and groups")
	}
	return fmt.Sprintf("%s: %s, %s, secret %s, allows %s -> %s port %d%s, %s", c.Name, c.Kind, how, c.Secret, who,
		c.To.PoolID, c.To.TargetPort, c.To.Path, key)
}
