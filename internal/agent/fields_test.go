package agent_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/guestproto"
	"mvm/internal/limits"
)

// field is a field of what is asked for: a change of it, and whether that is in force
// on what exists.
type field struct {
	change func(*mvm.Deployment)
	force  func(*host) error // nil: the change is refused, with KindState
}

// base is what exists before: a gateway, two workers that run and one that sleeps.
func base() mvm.Deployment {
	gw := desired(worker("gateways"), 1, 0, 0)
	gw.Role = mvm.RoleGateway
	gw.Routes = &mvm.RoutingTable{Routes: []mvm.Route{route("all", 8080)}}
	gw.Publish = []mvm.Publish{{Host: netip.MustParseAddrPort("127.0.0.1:9000"), Guest: 8080}}
	return mvm.Deployment{Tenant: mvm.TenantSpec{ID: "acme", Quota: new(mvm.DefaultQuota())},
		Pools:   []mvm.PoolSpec{gw, desired(worker("workers"), 2, 0, 1)},
		Secrets: map[string][]byte{"key": []byte("one")}}
}

func route(name string, port int) mvm.Route {
	return mvm.Route{Name: name, Match: mvm.MatchRule{Port: port}, To: mvm.Target{PoolID: "workers", Selector: mvm.Selector{Kind: mvm.SelectAny}, TargetPort: 80}}
}

// ofWorkers is a field of the pool of workers, which every instance in memory has to
// have, and the sleeping one once it woke.
func ofWorkers(change func(*mvm.PoolSpec), has func(*host, mvm.Instance) error) field {
	return field{func(d *mvm.Deployment) { change(&d.Pools[1]) }, func(h *host) error {
		checked := 0
		for _, i := range h.all("workers") {
			h.do(i.ID, mvm.OpWake)
			settled(time.Second) // what is awake beyond the desired number goes to sleep
			if i = h.get(i.ID); i.State != mvm.StateRunning {
				continue
			}
			if err := has(h, i); err != nil {
				return fmt.Errorf("%s, %s: %w", i.ID, i.State, err)
			}
			checked++
		}
		if checked == 0 {
			return errors.New("no worker stayed awake to be looked at")
		}
		return nil
	}}
}

// ofPool is a field that the agent reads from the pool's record whenever it needs it.
func ofPool(change func(*mvm.PoolSpec)) field {
	return field{func(d *mvm.Deployment) { change(&d.Pools[1]) }, func(h *host) error {
		want := base().Pools[1]
		change(&want)
		if p, _ := h.a.Pool(ctx(h.t), "acme", "workers"); !reflect.DeepEqual(p.Spec, want) {
			return fmt.Errorf("the pool is %+v, want %+v", p.Spec, want)
		}
		return nil
	}}
}

func ofQuota(change func(*mvm.Quota)) field {
	return field{func(d *mvm.Deployment) { change(d.Tenant.Quota) }, func(h *host) error {
		want := mvm.DefaultQuota()
		change(&want)
		if t, _, _ := h.a.Tenant(ctx(h.t), "acme"); t.Quota != want {
			return fmt.Errorf("the quota is %+v, want %+v", t.Quota, want)
		}
		return nil
	}}
}

// ofLimit is a limit of the workers, which the VMMs that run have at once, and the others
// from the moment they wake.
func ofLimit(s limits.Setting) field {
	return field{func(d *mvm.Deployment) { *s.At(&d.Pools[1].Limits) = 77 }, func(h *host) error {
		for _, v := range h.host.VMMs() { // nothing was woken or started for it
			if i := h.get(v.ID); i.Pool == "workers" && *s.At(&v.Limits) != 77 {
				return fmt.Errorf("%s of %s, %s, is %d", s.Name, i.ID, i.State, *s.At(&v.Limits))
			}
		}
		return ofWorkers(func(*mvm.PoolSpec) {}, func(h *host, i mvm.Instance) error {
			all := h.host.VMMs()
			v := all[slices.IndexFunc(all, func(v fake.VMM) bool { return v.ID == i.ID })]
			return wants(s.Name, *s.At(&v.Limits), 77)
		}).force(h)
	}}
}

// goName is the name of the limit's field.
func goName(s limits.Setting) string {
	var l mvm.Limits
	*s.At(&l) = 1
	v := reflect.ValueOf(l)
	for n := range v.NumField() {
		if !v.Field(n).IsZero() {
			return v.Type().Field(n).Name
		}
	}
	return s.Name
}

func wants[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s is %v, want %v", what, got, want)
	}
	return nil
}

func guestOf(h *host, i mvm.Instance) guestproto.Configure {
	g, _ := h.host.Guest(i.ID)
	if g.Config == nil {
		return guestproto.Configure{}
	}
	return *g.Config
}

func fields() map[string]field {
	all := poolFields()
	for name, f := range tenantFields() {
		all[name] = f
	}
	for name, set := range map[string]func(*mvm.RuntimePolicy){
		"MinRunningSeconds": func(p *mvm.RuntimePolicy) { p.MinRunningSeconds = 7 }, "MinWarmSeconds": func(p *mvm.RuntimePolicy) { p.MinWarmSeconds = 7 },
		"DrainTimeoutSeconds": func(p *mvm.RuntimePolicy) { p.DrainTimeoutSeconds = 7 }, "GracefulShutdownSeconds": func(p *mvm.RuntimePolicy) { p.GracefulShutdownSeconds = 7 },
		"WarmAfterSeconds": func(p *mvm.RuntimePolicy) { p.WarmAfterSeconds = 90_000 }, "SleepAfterSeconds": func(p *mvm.RuntimePolicy) { p.SleepAfterSeconds = 90_000 },
		"IdleCPUPercent": func(p *mvm.RuntimePolicy) { p.IdleCPUPercent = 7 }, "IdleBytesPerMinute": func(p *mvm.RuntimePolicy) { p.IdleBytesPerMinute = 7 },
		"QuietConnectionSeconds": func(p *mvm.RuntimePolicy) { p.QuietConnectionSeconds = 7 },
	} {
		all["Pool.Policy."+name] = ofPool(func(s *mvm.PoolSpec) { set(&s.Policy) })
	}
	for _, s := range limits.Settings() {
		all["Pool.Limits."+goName(s)] = ofLimit(s)
	}
	for name, set := range map[string]func(*mvm.Quota){
		"MaxVCPUs": func(q *mvm.Quota) { q.MaxVCPUs++ }, "MaxMemMiB": func(q *mvm.Quota) { q.MaxMemMiB++ }, "MaxRunning": func(q *mvm.Quota) { q.MaxRunning++ },
		"MaxWarm": func(q *mvm.Quota) { q.MaxWarm++ }, "MaxPools": func(q *mvm.Quota) { q.MaxPools++ },
		"MaxInstancesPerPool": func(q *mvm.Quota) { q.MaxInstancesPerPool++ }, "MaxDiskGiB": func(q *mvm.Quota) { q.MaxDiskGiB++ },
	} {
		all["Tenant.Quota."+name] = ofQuota(set)
	}
	return all
}

func poolFields() map[string]field {
	counts := func(change func(*mvm.Counts), want mvm.Counts) field {
		return field{func(d *mvm.Deployment) { change(&d.Pools[1].Desired) }, func(h *host) error { return wants("pool", h.counts("workers"), want) }}
	}
	return map[string]field{
		"Pool.ID": {func(d *mvm.Deployment) { d.Pools = append(d.Pools, desired(worker("more"), 1, 0, 0)) }, func(h *host) error {
			return wants("new pool", h.counts("more"), mvm.Counts{Running: 1})
		}},
		"Pool.Role":    {func(d *mvm.Deployment) { d.Pools[1].Role = mvm.RoleBuilder }, nil},
		"Pool.Profile": ofPool(func(s *mvm.PoolSpec) { s.Profile = "other" }),
		"Pool.Flake": ofWorkers(func(s *mvm.PoolSpec) { s.Flake = "builtin:other" }, func(h *host, i mvm.Instance) error {
			p, err := h.a.Pool(ctx(h.t), "acme", "workers")
			if err != nil || p.Builds[0].Flake != "builtin:other" || len(p.Builds) != 2 || p.Builds[0].Digest == p.Builds[1].Digest {
				return fmt.Errorf("builds are %+v, %w", p.Builds, err)
			}
			return wants("image", i.Image, p.Builds[0].Digest)
		}),
		"Pool.Resources.VCPUs": ofWorkers(func(s *mvm.PoolSpec) { s.Resources.VCPUs = 2 }, func(_ *host, i mvm.Instance) error { return wants("vcpus", i.Res.VCPUs, 2) }),
		"Pool.Resources.MemMiB": ofWorkers(func(s *mvm.PoolSpec) { s.Resources.MemMiB = 192 }, func(h *host, i mvm.Instance) error {
			all := h.host.VMMs()
			return wants("memory of the VMM", all[slices.IndexFunc(all, func(v fake.VMM) bool { return v.ID == i.ID })].MemMiB, 192)
		}),
		"Pool.Resources.DataDiskMiB": ofWorkers(func(s *mvm.PoolSpec) { s.Resources.DataDiskMiB = 32 }, func(h *host, i mvm.Instance) error {
			b, err := os.ReadFile(filepath.Join(h.dir, "instances", i.ID, "data.img"))
			if err != nil || string(b[:4]) != "disk" {
				return fmt.Errorf("what was on the disk is lost: %w", err)
			}
			return wants("size of the disk", len(b), 32<<20)
		}),
		"Pool.Desired.Running":  counts(func(c *mvm.Counts) { c.Running = 3 }, mvm.Counts{Running: 3, Sleeping: 1}),
		"Pool.Desired.Warm":     counts(func(c *mvm.Counts) { c.Warm = 1 }, mvm.Counts{Running: 2, Warm: 1, Sleeping: 1}),
		"Pool.Desired.Sleeping": counts(func(c *mvm.Counts) { c.Sleeping = 2 }, mvm.Counts{Running: 2, Sleeping: 2}),
		"Pool.Pinned":           ofPool(func(s *mvm.PoolSpec) { s.Pinned = true }),
		"Pool.Critical":         ofPool(func(s *mvm.PoolSpec) { s.Critical = true }),
		"Pool.Peers":            ofPool(func(s *mvm.PoolSpec) { s.Peers = true }), // TestClosedTenants shows it in force
		"Pool.Egress": {func(d *mvm.Deployment) { d.Pools[1].Egress = []string{"10.1.0.0/16"} }, func(h *host) error {
			n := h.net.Config().Tenants[0]
			of := map[string]int{}
			for _, i := range n.Instances {
				of[i.ID] = i.Egress
			}
			for _, i := range h.all("workers") {
				if of[i.ID] != 1 || len(n.Egress) != 1 || n.Egress[0][0].String() != "10.1.0.0/16" {
					return fmt.Errorf("the network of %s is %+v", i.ID, n)
				}
			}
			return nil
		}},
		"Pool.WakeCatchUp": ofPool(func(s *mvm.PoolSpec) { s.WakeCatchUp = mvm.CatchUpAll }),
		"Pool.Routes": {func(d *mvm.Deployment) {
			d.Pools[0].Routes.Routes = append(d.Pools[0].Routes.Routes, route("more", 9090))
		}, func(h *host) error {
			return wants("routes of the gateway", len(guestOf(h, h.all("gateways")[0]).Routes.Routes), 2)
		}},
		"Pool.Channels": {func(d *mvm.Deployment) {
			d.Pools[0].Channels = []mvm.Channel{{Name: "bot", Kind: mvm.ChannelTelegram, Secret: "key", Allow: []string{"7"},
				To: mvm.ChannelTarget{PoolID: "workers", TargetPort: 80, Path: "/hook"}}}
		}, func(h *host) error {
			c := guestOf(h, h.all("gateways")[0])
			return wants("channels of the gateway", fmt.Sprintf("%s %s", c.Channels[0].Name, c.Channels[0].Token), "bot one")
		}},
		"Pool.Routes.Auth": {func(d *mvm.Deployment) {
			d.Pools[0].Routes.Routes[0].Auth = &mvm.Auth{Mode: mvm.AuthJWT, Algorithm: mvm.AlgHS256, Keys: []string{"key"}}
		}, func(h *host) error {
			c := guestOf(h, h.all("gateways")[0])
			return wants("auth of the gateway", fmt.Sprintf("%s %s", c.Routes.Routes[0].AuthMode(), c.RouteKeys["key"]), "jwt one")
		}},
		"Pool.Publish": {func(d *mvm.Deployment) { d.Pools[0].Publish[0].Host = netip.MustParseAddrPort("127.0.0.1:9001") }, func(h *host) error {
			p, _ := h.a.Pool(ctx(h.t), "acme", "gateways")
			return wants("published port", fmt.Sprint(p.Bound), "[127.0.0.1:9001]")
		}},
		"Pool.SecretScopes": ofWorkers(func(s *mvm.PoolSpec) {
			s.SecretScopes = []mvm.SecretScope{{Integration: "mail", Keys: []string{"key"}}}
		},
			func(h *host, i mvm.Instance) error {
				return wants("secret", h.exec(i.ID, "cat", "/run/secrets/mail/key"), "one")
			}),
		"Pool.Env": ofWorkers(func(s *mvm.PoolSpec) { s.Env = map[string]string{"GREETING": "hello"} }, func(h *host, i mvm.Instance) error {
			if err := wants("env at boot", i.EnvDigest, mvm.EnvDigest(map[string]string{"GREETING": "hello"})); err != nil {
				return err
			}
			return wants("env", h.exec(i.ID, "env"), "GREETING=hello")
		}),
		"Pool.Integrations": ofWorkers(func(s *mvm.PoolSpec) { s.Integrations = []mvm.Integration{{Name: "mail", CheckpointCmd: "true"}} }, func(h *host, i mvm.Instance) error {
			return wants("integrations", len(guestOf(h, i).Integrations), 1)
		}),
	}
}

func tenantFields() map[string]field {
	return map[string]field{
		"Tenant.ID":     {func(d *mvm.Deployment) { d.Tenant.ID = "beta" }, func(h *host) error { _, _, err := h.a.Tenant(ctx(h.t), "beta"); return err }},
		"Tenant.NetID":  {func(d *mvm.Deployment) { d.Tenant.NetID = new(77) }, nil},
		"Tenant.Subnet": {func(d *mvm.Deployment) { d.Tenant.Subnet = netip.MustParsePrefix("10.250.0.0/24") }, nil},
		"Tenant.Pinned": {func(d *mvm.Deployment) { d.Tenant.Pinned = true }, func(h *host) error {
			t, _, _ := h.a.Tenant(ctx(h.t), "acme")
			return wants("pinned", t.Pinned, true)
		}},
		"Tenant.Ceilings": {func(d *mvm.Deployment) { d.Tenant.Ceilings = &mvm.Limits{CPUPercent: 66} }, func(h *host) error {
			return ofWorkers(func(*mvm.PoolSpec) {}, func(h *host, i mvm.Instance) error { return wants("CPU limit", h.limitOf(i.ID), 66) }).force(h)
		}},
		"Tenant.HostServices": {func(d *mvm.Deployment) { d.Tenant.HostServices = []int{5432} }, func(h *host) error {
			return wants("host services of the network", fmt.Sprint(h.net.Config().Tenants[0].HostPorts), "[5432]")
		}},
		"Secrets": {func(d *mvm.Deployment) { d.Secrets = map[string][]byte{"key": []byte("two")} }, func(h *host) error {
			all := h.all("workers")
			running := slices.IndexFunc(all, func(i mvm.Instance) bool { return i.State == mvm.StateRunning })
			return wants("secret", h.exec(all[running].ID, "cat", "/run/secrets/key"), "two")
		}},
	}
}

// leaves are the paths of everything that can be said, by its Go names.
func leaves(v reflect.Type, path string) (out []string) {
	if v.Kind() == reflect.Pointer && v.Elem() == reflect.TypeFor[mvm.Quota]() {
		v = v.Elem()
	}
	within := []reflect.Type{reflect.TypeFor[mvm.TenantSpec](), reflect.TypeFor[mvm.PoolSpec](), reflect.TypeFor[mvm.Quota](),
		reflect.TypeFor[mvm.Resources](), reflect.TypeFor[mvm.Counts](), reflect.TypeFor[mvm.Limits](), reflect.TypeFor[mvm.RuntimePolicy]()}
	if !slices.Contains(within, v) {
		return []string{path}
	}
	for n := range v.NumField() {
		out = append(out, leaves(v.Field(n).Type, path+"."+v.Field(n).Name)...)
	}
	return out
}

// TestEveryFieldIsApplied changes everything that can be asked for, one after the
// other, while the instances are there.
func TestEveryFieldIsApplied(t *testing.T) {
	all := fields()
	paths := append(leaves(reflect.TypeFor[mvm.TenantSpec](), "Tenant"), leaves(reflect.TypeFor[mvm.PoolSpec](), "Pool")...)
	for _, path := range append(paths, "Secrets") {
		if _, ok := all[path]; !ok {
			t.Errorf("%s: nobody said what a change of it does to what exists: add it to fields, and see docs/reconcile.md", path)
		}
	}
	for path, f := range all {
		t.Run(path, func(t *testing.T) { inBubble(t, func(t *testing.T, h *host) { changeField(t, h, f) }) })
	}
}

func changeField(t *testing.T, h *host, f field) {
	if _, err := h.a.Apply(ctx(t), base(), mvm.ApplyOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	settled(time.Minute)
	changed := base()
	f.change(&changed)
	steps, err := h.a.Apply(ctx(t), changed, mvm.ApplyOptions{}, nil)
	if f.force == nil {
		if !mvm.IsKind(err, mvm.KindState) || len(steps) != 0 {
			t.Errorf("%d steps, %v; want it refused", len(steps), err)
		}
		return
	}
	if err != nil || len(steps) == 0 {
		t.Fatalf("%v, %v; want steps and no error", steps, err)
	}
	settled(time.Second)
	if err := f.force(h); err != nil {
		t.Errorf("not in force: %v", err)
	}
	settled(time.Minute) // what the test woke goes back to sleep
	before := len(h.events())
	for _, dry := range []bool{true, false} {
		if steps, err := h.a.Apply(ctx(t), changed, mvm.ApplyOptions{Dry: dry}, nil); err != nil || len(steps) != 0 {
			t.Errorf("the second time (dry: %v): %v, %v; want nothing to do", dry, steps, err)
		}
	}
	settled(time.Hour)
	if now := h.events(); len(now) != before {
		t.Errorf("events after the second time: %+v", now[before:])
	}
}
