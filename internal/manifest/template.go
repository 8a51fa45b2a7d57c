package manifest

import (
	"net/netip"
	"strings"

	"mvm"
)

// Template makes a deployment of a name. Its methods may be called from many
// goroutines.
type Template struct {
	Name string
	// About says what it makes, for people, in a line.
	About string

	flake   string // default image reference of the workers
	builtin string // image of the workers where Nix flakes cannot be built
	quota   mvm.Quota
	pools   func() []mvm.PoolSpec // without image references; fresh at each call
	// channel is what a channel of the kind has unless it says otherwise; nil: nothing.
	channel func(mvm.ChannelKind) mvm.Channel
}

// builtinGateway is the image of gateways, unless a flake brings its own.
const builtinGateway = "builtin:gateway"

// Templates returns the built-in templates.
func Templates() []Template {
	return []Template{
		{
			Name:    "openclaw",
			About:   "OpenClaw: each user has their own, behind a gateway",
			flake:   "github:openclaw/nix-openclaw",
			builtin: "builtin:openclaw",
			quota: mvm.Quota{MaxVCPUs: 32, MaxMemMiB: 65536, MaxRunning: 16, MaxWarm: 8, MaxPools: 10,
				MaxInstancesPerPool: 32, MaxDiskGiB: 500},
			pools:   openclawPools,
			channel: openclawChannel,
		},
		{
			Name:    "minimal",
			About:   "a small Linux for each user that runs your command, behind a gateway",
			flake:   "builtin:minimal",
			builtin: "builtin:minimal",
			quota:   mvm.DefaultQuota(),
			pools:   minimalPools,
		},
	}
}

// FindTemplate returns a template by name, KindNotFound with the names there are.
func FindTemplate(name string) (Template, error) {
	var names []string
	for _, t := range Templates() {
		if t.Name == name {
			return t, nil
		}
		names = append(names, t.Name)
	}
	return Template{}, mvm.Errorf(mvm.KindNotFound, "there is no template %q", clip(name)).
		WithFix("use one of %s", strings.Join(names, ", "))
}

func openclawPools() []mvm.PoolSpec {
	policy := mvm.DefaultRuntimePolicy()
	policy.MinRunningSeconds, policy.MinWarmSeconds, policy.DrainTimeoutSeconds = 300, 120, 30
	workers := policy
	// OpenClaw says itself whether it is busy, and its housekeeping alone takes up to a
	// tenth of a CPU that is emulated.
	workers.IdleCPUPercent = 25
	return []mvm.PoolSpec{
		gatewayPool(policy, mvm.Resources{VCPUs: 2, MemMiB: 1024}, 18789),
		{ID: "workers", Role: mvm.RoleWorker, Profile: "minimal", Policy: workers,
			Resources: mvm.Resources{VCPUs: 2, MemMiB: 2048, DataDiskMiB: 2048},
			Desired:   mvm.Counts{Running: 1}},
	}
}

func minimalPools() []mvm.PoolSpec {
	policy := mvm.DefaultRuntimePolicy()
	return []mvm.PoolSpec{
		gatewayPool(policy, mvm.Resources{VCPUs: 1, MemMiB: 256}, 8080),
		{ID: "workers", Role: mvm.RoleWorker, Profile: "minimal", Policy: policy,
			Resources: mvm.Resources{VCPUs: 1, MemMiB: 256}, Desired: mvm.Counts{Running: 1},
			Env: map[string]string{"MVM_COMMAND": helloCommand, "MVM_READY_TCP": "8080"}},
	}
}

// helloCommand is what a worker of the template minimal runs until it is given a
// command of its own: a page that says hello, so that the whole way can be tried.
const helloCommand = "mkdir -p /tmp/www && echo 'hello from mvm' > /tmp/www/index.html && exec httpd -f -p 8080 -h /tmp/www"

// gatewayPool sends each user, named by a header, to a worker of their own.
func gatewayPool(policy mvm.RuntimePolicy, res mvm.Resources, target int) mvm.PoolSpec {
	const port = 8080
	return mvm.PoolSpec{ID: "gateways", Role: mvm.RoleGateway, Profile: "minimal", Policy: policy,
		Resources: res, Desired: mvm.Counts{Running: 1},
		Publish: []mvm.Publish{{Host: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0), Guest: port}},
		Routes: &mvm.RoutingTable{Routes: []mvm.Route{{
			Name:  "users",
			Match: mvm.MatchRule{Port: port, PathPrefix: "/"},
			To: mvm.Target{PoolID: "workers", TargetPort: target,
				Selector: mvm.Selector{Kind: mvm.SelectByKey, From: "header:x-mvm-user"}},
		}}},
	}
}

// NewOptions are the flags of `mvm new` and what is known of the host.
type NewOptions struct {
	Flake  string       // --flake, empty: the config's or the template's
	NetID  *int         // --net-id
	Subnet netip.Prefix // --subnet, zero: choose
	// BuildsFlakes: Nix flakes can be built on this host.
	BuildsFlakes bool
}

// Deployment makes the deployment of the template: a tenant of that name with the
// template's pools, changed by the config. Notes tell people which images were
// chosen, and why. The image comes from the flag, else the config, else the template;
// the template's flake gives way to a built-in image where flakes cannot be built.
// A flake is for every pool, since it has a variant for each role; any other
// image is for the workers, and the gateways keep builtin:gateway.
func (t Template) Deployment(name string, c NewConfig, o NewOptions) (d mvm.Deployment, notes []string, err error) {
	quota := t.quota
	d = mvm.Deployment{
		Tenant:  mvm.TenantSpec{ID: name, NetID: o.NetID, Subnet: o.Subnet, Quota: &quota, HostServices: c.HostServices},
		Secrets: c.Secrets,
		Pools:   t.pools(),
	}
	ref, note := t.image(c, o)
	notes = append(notes, note)
	for n := range d.Pools {
		p := &d.Pools[n]
		c.Pools[p.ID].apply(p)
		p.Flake = ref
		if p.Role == mvm.RoleGateway && !isFlake(ref) {
			p.Flake = builtinGateway
			notes = append(notes, "pool "+p.ID+" uses "+builtinGateway)
		}
	}
	addChannels(d.Pools, c.Channels)
	if err := d.Validate(); err != nil {
		return mvm.Deployment{}, nil, mvm.Errorf(mvm.KindOf(err), "use template %s: %w", t.Name, err)
	}
	return d, notes, nil
}

// image returns the reference for the workers and a note that says where it is from.
func (t Template) image(c NewConfig, o NewOptions) (ref, note string) {
	switch {
	case o.Flake != "":
		return o.Flake, "image " + o.Flake + ", from --flake"
	case c.Flake != "":
		return c.Flake, "image " + c.Flake + ", from the config file"
	case !o.BuildsFlakes && isFlake(t.flake):
		return t.builtin, "image " + t.builtin + ", since Nix flakes cannot be built on this host (the template's is " + t.flake + ")"
	}
	return t.flake, "image " + t.flake + ", from the template"
}

// isFlake reports whether a reference is a Nix flake, and not an image of another kind.
func isFlake(ref string) bool {
	for _, scheme := range []string{"builtin:", "oci:", "oci-archive:", "dir:"} {
		if strings.HasPrefix(ref, scheme) {
			return false
		}
	}
	return true
}
