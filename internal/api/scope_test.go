package api_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"mvm"
	"mvm/internal/api"
)

// twoTenants is a Service with tenants acme and other: acme's is instance i-a3f7b2c1,
// other's i-00000bad. It tells of another tenant what a real agent would.
type twoTenants struct{ script }

const foreign = "i-00000bad"

func foreignInstance() mvm.Instance {
	i := instance()
	i.ID, i.Tenant = foreign, "other"
	return i
}

func (s *twoTenants) Instance(ctx context.Context, addr mvm.Address) (mvm.Instance, error) {
	err := s.note(ctx, "Instance", addr)
	switch addr.Instance {
	case foreign:
		return foreignInstance(), err
	case "i-00000000":
		return mvm.Instance{}, mvm.Errorf(mvm.KindNotFound, "no instance %s", addr.Instance)
	}
	return instance(), err
}

func (s *twoTenants) Events(ctx context.Context, f mvm.EventFilter, each func(mvm.Event) error) error {
	err := s.note(ctx, "Events", f)
	for _, e := range []mvm.Event{event(), {Seq: 8, Tenant: "other"}, {Seq: 9}} {
		if err == nil {
			err = each(e)
		}
	}
	return err
}

// asTenant lets every caller in as a client of the tenant, "" as an operator.
func asTenant(tenant string) func(*http.Request) (api.Caller, error) {
	return func(*http.Request) (api.Caller, error) {
		return api.Caller{Asker: mvm.ParseAsker("api:t"), Tenant: tenant}, nil
	}
}

func dialAs(t *testing.T, svc api.Service, tenant string) *api.Client {
	t.Helper()
	return dialReading(t, svc, tenant, func(ref string) bool { return ref == "." || strings.HasPrefix(ref, "dir:") })
}

// dialReading is dialAs of a host where building the references of which readsHost says so
// reads files of the host.
func dialReading(t *testing.T, svc api.Service, tenant string, readsHost func(ref string) bool) *api.Client {
	t.Helper()
	socket, _ := serve(t, svc, api.ServerConfig{Admit: asTenant(tenant), ReadsHost: readsHost})
	return dial(t, socket)
}

// TestImagesOfTenantsAreTheBuildersWord: whether a tenant's client may name an image is
// what the host's builders say of it, whatever the reference looks like. Where they say
// nothing, it may name none but the one that is there.
func TestImagesOfTenantsAreTheBuildersWord(t *testing.T) {
	apply := func(readsHost func(string) bool, flake string) error {
		spec := pool().Spec
		if flake != "" {
			spec.Flake = flake
		}
		c := dialReading(t, &twoTenants{}, "acme", readsHost)
		_, err := c.Apply(ctxOf(t), mvm.Deployment{Tenant: mvm.TenantSpec{ID: "acme", HostServices: []int{11434}}, Pools: []mvm.PoolSpec{spec}}, mvm.ApplyOptions{}, nil)
		return err
	}
	var asked []string
	all := func(ref string) bool { asked = append(asked, ref); return ref == "oci:of/files" }
	for flake, want := range map[string]mvm.Kind{"oci:of/files": mvm.KindPolicy, "oci:other": "", "dir:/srv/not-of-this-host": ""} {
		if err := apply(all, flake); mvm.KindOf(err) != want {
			t.Errorf("%s: %v, want kind %q", flake, err, want)
		}
	}
	if len(asked) != 3 {
		t.Errorf("the builders were asked of %q", asked)
	}
	if err := apply(nil, "builtin:minimal"); !mvm.IsKind(err, mvm.KindPolicy) {
		t.Errorf("where nobody knows: %v, want it refused", err)
	}
	if err := apply(nil, ""); err != nil {
		t.Errorf("the image that is there: %v", err)
	}
}

// decisions says of every method what a client of tenant acme gets: what is its own,
// nothing, or only a part.
func decisions() map[string]string {
	return map[string]string{
		"CreateTenant": "refused", "UpdateTenant": "refused", "DestroyTenant": "refused", "RotateKey": "refused",
		"Tenants": "own", "Tenant": "own", "SetSecrets": "own", "RotateSecrets": "own",
		"CreatePool": "host", "UpdatePool": "own", "Pools": "own", "Pool": "own", "BuildPool": "own", "StartBuild": "own", "Builds": "own", "BuildRun": "own", "BuildLogs": "own", "CancelBuild": "own", "RollbackPool": "own", "GCPool": "own", "DestroyPool": "own",
		"CreateInstance": "own", "Instances": "own", "Instance": "own", "Operate": "own", "Why": "own", "Stats": "own", "Usage": "own", "Snapshots": "own", "RestoreSnapshot": "own", "RemoveSnapshot": "own", "DoctorTenant": "own", "Messages": "own", "Message": "own", "RetryMessage": "own", "DropMessage": "own", "Logs": "own", "Exec": "own", "Copy": "own",
		"Apply": "host", "Reconcile": "host", "Desired": "refused", "Events": "own", "VerifyEvents": "refused",
		"NodeInfo": "refused", "NodeStats": "refused", "NodeDisk": "refused", "NodeCheck": "refused", "NodeGC": "refused", "NetVerify": "refused", "Doctor": "refused",
	}
}

// Every call of a tenant's client about its own tenant has the outcome that was
// decided, and nothing refused reaches the service.
func TestTenantClientOnItsOwnTenant(t *testing.T) {
	for _, tc := range calls() {
		svc := &twoTenants{}
		_, err := tc.do(ctxOf(t), dialAs(t, svc, "acme"), nil)
		decided, ok := decisions()[tc.name]
		switch {
		case !ok:
			t.Errorf("%s: nobody decided what a tenant's client may: add it to decisions, and see scope.go", tc.name)
		case decided == "own" && err != nil:
			t.Errorf("%s: %v", tc.name, err)
		case decided != "own" && !mvm.IsKind(err, mvm.KindPolicy):
			t.Errorf("%s: got %v, want it refused", tc.name, err)
		case decided == "refused" && svc.last() != "":
			t.Errorf("%s: refused, but the service was asked %s", tc.name, svc.last())
		case decided == "host" && strings.HasPrefix(svc.last(), tc.name+" "):
			t.Errorf("%s: refused, but the service was asked %s", tc.name, svc.last())
		}
	}
}

// Every call of a client of another tenant about acme is refused, or shows it nothing
// of acme's, and what changes something does not reach the service.
func TestTenantClientOnAnotherTenant(t *testing.T) {
	lists := []string{"Tenants", "Pools", "Instances", "Usage", "Snapshots", "Events", "Builds"}
	for _, tc := range calls() {
		svc := &twoTenants{}
		got, err := tc.do(ctxOf(t), dialAs(t, svc, "stranger"), nil)
		all := tc.asks == `[""]` || tc.asks == "null" || tc.asks == js([]any{mvm.Address{}})
		if slices.Contains(lists, tc.name) && all {
			if err != nil || !strings.Contains(svc.last(), `"stranger"`) {
				t.Errorf("%s: the service was asked for %s, got %s", tc.name, svc.last(), js(got))
			}
			continue
		}
		if tc.byID { // nothing says whose it is before the service does
			if !mvm.IsKind(err, mvm.KindNotFound) || !strings.HasPrefix(svc.last(), "BuildRun ") {
				t.Errorf("%s: got %v, and the service was asked %s; want it as if it were not there", tc.name, err, svc.last())
			}
			continue
		}
		if !mvm.IsKind(err, mvm.KindPolicy) {
			t.Errorf("%s: got %v, want it refused", tc.name, err)
		}
		if svc.last() != "" {
			t.Errorf("%s: the service was asked %s", tc.name, svc.last())
		}
	}
}

// An id alone, guessed or leaked, opens nothing: the answer for another tenant's
// instance is that for none.
func TestGuessedInstanceIsNotThere(t *testing.T) {
	svc := &twoTenants{}
	c := dialAs(t, svc, "acme")
	ctx := ctxOf(t)
	asks := map[string]func(mvm.Address) error{
		"Instance": func(a mvm.Address) error { _, err := c.Instance(ctx, a); return err },
		"Operate": func(a mvm.Address) error {
			_, err := c.Operate(ctx, a, mvm.OpRequest{Op: mvm.OpDestroy}, nil)
			return err
		},
		"Stats":     func(a mvm.Address) error { _, err := c.Stats(ctx, a); return err },
		"Usage":     func(a mvm.Address) error { _, err := c.Usage(ctx, a); return err },
		"Snapshots": func(a mvm.Address) error { _, err := c.Snapshots(ctx, a); return err },
		"RestoreSnapshot": func(a mvm.Address) error {
			_, err := c.RestoreSnapshot(ctx, a, "s-00000001")
			return err
		},
		"RemoveSnapshot": func(a mvm.Address) error { return c.RemoveSnapshot(ctx, a, "s-00000001") },
		"Instances":      func(a mvm.Address) error { _, err := c.Instances(ctx, a); return err },
		"Logs": func(a mvm.Address) error {
			return c.Logs(ctx, a, mvm.LogsSpec{}, func(mvm.LogLine) error { return nil })
		},
		"Copy": func(a mvm.Address) error {
			_, err := c.Copy(ctx, a, mvm.CopySpec{Path: "/etc/passwd"}, mvm.ExecIO{})
			return err
		},
		"Exec": func(a mvm.Address) error {
			_, err := c.Exec(ctx, a, mvm.ExecSpec{Argv: []string{"id"}}, mvm.ExecIO{})
			return err
		},
	}
	for name, ask := range asks {
		none := ask(mvm.Address{Instance: "i-00000000"})
		got := ask(mvm.Address{Instance: foreign})
		if !mvm.IsKind(got, mvm.KindNotFound) || strings.ReplaceAll(got.Error(), foreign, "i-00000000") != none.Error() {
			t.Errorf("%s: another tenant's instance: %v; none: %v", name, got, none)
		}
		if strings.HasPrefix(svc.last(), name+" ") && name != "Instance" {
			t.Errorf("%s reached the service: %s", name, svc.last())
		}
		if err := ask(mvm.Address{Tenant: "acme", Pool: "workers", Instance: "i-a3f7b2c1"}); err != nil {
			t.Errorf("%s of its own: %v", name, err)
		}
		if err := ask(mvm.Address{Instance: "i-a3f7b2c1"}); err != nil {
			t.Errorf("%s of its own by id: %v", name, err)
		}
		if want := `"Tenant":"acme"`; !strings.Contains(svc.last(), want) {
			t.Errorf("%s: the service was asked without its tenant: %s", name, svc.last())
		}
	}
}

func TestTenantClientSeesOnlyItsEvents(t *testing.T) {
	for tenant, want := range map[string]string{"": "[7 8 9]", "acme": "[7]"} {
		var got []uint64
		err := dialAs(t, &twoTenants{}, tenant).Events(ctxOf(t), mvm.EventFilter{}, func(e mvm.Event) error { got = append(got, e.Seq); return nil })
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("client of %q got %v, %v, want %s", tenant, got, err, want)
		}
	}
}

// What a tenant's deployment says about the host must be as an operator left it.
func TestTenantClientLeavesTheHostAlone(t *testing.T) {
	asIs := pool().Spec
	change := func(f func(*mvm.PoolSpec)) mvm.PoolSpec { s := poolSpec(); f(&s); return s }
	q := mvm.DefaultQuota()
	bigger := q
	bigger.MaxVCPUs++
	netID, otherNet := 3, 5
	for name, tc := range map[string]struct {
		tenant mvm.TenantSpec
		pool   mvm.PoolSpec
		ok     bool
	}{
		"as it is":             {mvm.TenantSpec{HostServices: []int{11434}, Quota: &q, NetID: &netID}, asIs, true},
		"more memory":          {mvm.TenantSpec{HostServices: []int{11434}}, change(func(s *mvm.PoolSpec) { s.Resources.MemMiB *= 2 }), true},
		"an image elsewhere":   {mvm.TenantSpec{HostServices: []int{11434}}, change(func(s *mvm.PoolSpec) { s.Flake = "github:a/b" }), true},
		"a new pool":           {mvm.TenantSpec{HostServices: []int{11434}}, change(func(s *mvm.PoolSpec) { s.ID, s.Publish = "new", nil }), true},
		"quota":                {mvm.TenantSpec{HostServices: []int{11434}, Quota: &bigger}, asIs, false},
		"network":              {mvm.TenantSpec{HostServices: []int{11434}, NetID: &otherNet}, asIs, false},
		"pinned":               {mvm.TenantSpec{HostServices: []int{11434}, Pinned: true}, asIs, false},
		"host services":        {mvm.TenantSpec{HostServices: []int{22}}, asIs, false},
		"published":            {mvm.TenantSpec{HostServices: []int{11434}}, change(func(s *mvm.PoolSpec) { s.Publish[0].Guest = 22 }), false},
		"published, new pool":  {mvm.TenantSpec{HostServices: []int{11434}}, change(func(s *mvm.PoolSpec) { s.ID = "new" }), false},
		"limit with a ceiling": {mvm.TenantSpec{HostServices: []int{11434}}, change(func(s *mvm.PoolSpec) { s.Limits.CPUPercent = 90 }), true},
		"limit without one":    {mvm.TenantSpec{HostServices: []int{11434}}, change(func(s *mvm.PoolSpec) { s.Limits.CPUWeight = 90 }), false},
		"ceilings":             {mvm.TenantSpec{HostServices: []int{11434}, Ceilings: &mvm.Limits{CPUPercent: 300}}, pool().Spec, false},
		"same ceilings":        {mvm.TenantSpec{HostServices: []int{11434}, Ceilings: &mvm.Limits{CPUPercent: 200}}, pool().Spec, true},
		"egress":               {mvm.TenantSpec{HostServices: []int{11434}}, change(func(s *mvm.PoolSpec) { s.Egress = []string{"10.0.0.0/8"} }), false},
		"egress, new pool":     {mvm.TenantSpec{HostServices: []int{11434}}, change(func(s *mvm.PoolSpec) { s.ID, s.Publish, s.Egress = "new", nil, []string{"10.0.0.1"} }), false},
		"peers":                {mvm.TenantSpec{HostServices: []int{11434}}, change(func(s *mvm.PoolSpec) { s.Peers = true }), true},
		"a pinned pool":        {mvm.TenantSpec{HostServices: []int{11434}}, change(func(s *mvm.PoolSpec) { s.Pinned = true }), false},
		"a critical pool":      {mvm.TenantSpec{HostServices: []int{11434}}, change(func(s *mvm.PoolSpec) { s.Critical = true }), false},
		"the host's files":     {mvm.TenantSpec{HostServices: []int{11434}}, change(func(s *mvm.PoolSpec) { s.Flake = "dir:/root" }), false},
		"a folder":             {mvm.TenantSpec{HostServices: []int{11434}}, change(func(s *mvm.PoolSpec) { s.Flake = "." }), false},
	} {
		t.Run(name, func(t *testing.T) {
			svc := &twoTenants{}
			c := dialAs(t, svc, "acme")
			tc.tenant.ID = "acme"
			_, err := c.Apply(ctxOf(t), mvm.Deployment{Tenant: tc.tenant, Pools: []mvm.PoolSpec{tc.pool}}, mvm.ApplyOptions{}, nil)
			if tc.ok && err != nil || !tc.ok && !mvm.IsKind(err, mvm.KindPolicy) {
				t.Errorf("got %v, want it done: %t", err, tc.ok)
			}
			if !tc.ok && strings.HasPrefix(svc.last(), "Apply") {
				t.Errorf("the service was asked %s", svc.last())
			}
		})
	}
}

// What a tenant's client changes is changed only where it is still what was looked at: an
// operator may have changed it meanwhile.
func TestTenantClientUndoesNothing(t *testing.T) {
	svc := &twoTenants{}
	c := dialAs(t, svc, "acme")
	have := pool().Spec
	more := poolSpec()
	more.Resources.MemMiB *= 2
	if _, err := c.UpdatePool(ctxOf(t), "acme", "workers", mvm.PoolUpdate{Spec: &more}); err != nil {
		t.Fatal(err)
	}
	if want := js(have); !strings.Contains(svc.last(), `"if":`+want) {
		t.Errorf("the service was asked %s, want it only if the pool is %s", svc.last(), want)
	}
	if _, err := c.UpdatePool(ctxOf(t), "acme", "workers", mvm.PoolUpdate{Spec: &have, If: &more}); !mvm.IsKind(err, mvm.KindState) {
		t.Errorf("an update of another spec than the pool's: %v, want it refused", err)
	}
}

// A caller that nobody named gets nothing.
func TestNoCallerIsNobody(t *testing.T) {
	if c := api.CallerFrom(context.Background()); c.Tenant == "" {
		t.Errorf("a context without a caller has an operator: %+v", c)
	}
}

// What is for operators only is refused before anything of the request is read.
func TestOperatorsRoutesLookAtNothing(t *testing.T) {
	doc := document(t)
	socket, _ := serve(t, &twoTenants{}, api.ServerConfig{Admit: asTenant("acme")})
	n := 0
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			if op.Extensions["x-mvm-access"] != "operators" {
				continue
			}
			n++
			path := strings.NewReplacer("{tenant}", "acme", "{pool}", "workers", "{address}", "i-a3f7b2c1").Replace(path)
			request := strings.Replace(post(path, "{"), "POST", method, 1)
			if got := raw(t, socket, request); !strings.Contains(got, "403 Forbidden") || !strings.Contains(got, "only operators may do this") {
				t.Errorf("%s %s: %.300s", method, path, got)
			}
		}
	}
	if n < 5 {
		t.Errorf("only %d routes are for operators", n)
	}
}
