package api_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/api"
	noun "mvm/internal/build"
)

func buildRun() noun.Run {
	return noun.Run{ID: "b-00000001", Tenant: "acme", Pools: []string{"gateways"}, Ref: "builtin:gateway", Role: mvm.RoleGateway, Profile: "minimal", State: noun.Failed,
		By: mvm.ParseAsker("cli:root"), Request: "r-1", Created: day, Began: day.Add(time.Second), Ended: day.Add(time.Minute), Step: "copying", Error: "it broke", Kind: mvm.KindUnavailable, Fix: "mend it", Tries: 2}
}

func (s *script) StartBuild(ctx context.Context, tenant, pool string) (noun.Run, error) {
	return buildRun(), s.note(ctx, "StartBuild", tenant, pool)
}

func (s *script) Builds(ctx context.Context, tenant string) ([]noun.Run, error) {
	return []noun.Run{buildRun()}, s.note(ctx, "Builds", tenant)
}

func (s *script) BuildRun(ctx context.Context, id string) (noun.Run, error) {
	return buildRun(), s.note(ctx, "BuildRun", id)
}

func (s *script) BuildLogs(ctx context.Context, id string, spec mvm.LogsSpec, line func(mvm.LogLine) error) error {
	if err := s.note(ctx, "BuildLogs", id, spec); err != nil {
		return err
	}
	return line(logLine())
}

func (s *script) CancelBuild(ctx context.Context, id string) (noun.Run, error) {
	return buildRun(), s.note(ctx, "CancelBuild", id)
}

func buildCalls() []call {
	type progress = func(mvm.Progress)
	spec := mvm.LogsSpec{Tail: 3, Follow: true}
	return []call{
		{name: "StartBuild", asks: `["acme","gateways"]`, want: buildRun(), do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return value(c.StartBuild(x, "acme", "gateways"))
		}},
		{name: "Builds", asks: `[""]`, want: []noun.Run{buildRun()}, do: func(x context.Context, c api.Service, _ progress) (any, error) { return value(c.Builds(x, "")) }},
		{name: "Builds", asks: `["acme"]`, want: []noun.Run{buildRun()}, do: func(x context.Context, c api.Service, _ progress) (any, error) { return value(c.Builds(x, "acme")) }},
		{name: "BuildRun", byID: true, asks: `["b-00000001"]`, want: buildRun(), do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return value(c.BuildRun(x, "b-00000001"))
		}},
		{name: "BuildLogs", byID: true, asks: js([]any{"b-00000001", spec}), want: []mvm.LogLine{logLine()}, do: func(x context.Context, c api.Service, _ progress) (any, error) {
			var got []mvm.LogLine
			err := c.BuildLogs(x, "b-00000001", spec, func(l mvm.LogLine) error { got = append(got, l); return nil })
			return got, err
		}},
		{name: "CancelBuild", byID: true, asks: `["b-00000001"]`, want: buildRun(), do: func(x context.Context, c api.Service, _ progress) (any, error) {
			return value(c.CancelBuild(x, "b-00000001"))
		}},
	}
}

// pathy is a Service whose builds are full of paths of its host.
type pathy struct{ script }

func pathyRun() noun.Run {
	r := buildRun()
	r.Ref, r.Step, r.Error, r.Fix = "dir:/srv/images/app", "copying /srv/images/app/initrd", "no space left in /var/lib/mvm/images", "free space in /var/lib/mvm"
	return r
}

func (*pathy) StartBuild(context.Context, string, string) (noun.Run, error) { return pathyRun(), nil }
func (*pathy) Builds(context.Context, string) ([]noun.Run, error) {
	return []noun.Run{pathyRun()}, nil
}
func (*pathy) BuildRun(context.Context, string) (noun.Run, error)    { return pathyRun(), nil }
func (*pathy) CancelBuild(context.Context, string) (noun.Run, error) { return pathyRun(), nil }
func (*pathy) BuildLogs(_ context.Context, _ string, _ mvm.LogsSpec, line func(mvm.LogLine) error) error {
	return line(mvm.LogLine{Text: "open /root/.docker/config.json: no such file"})
}
func (*pathy) BuildPool(_ context.Context, _, _ string, progress func(mvm.Progress)) (mvm.Build, error) {
	progress(mvm.Progress{Target: "dir:/srv/images/app", Text: "reading /srv/images/app"})
	return mvm.Build{}, mvm.Errorf(mvm.KindUnavailable, "build pool acme/w: no space left in /var/lib/mvm").WithFix("free space in /var/lib/mvm")
}

// TestTenantClientSeesNoPaths: of the host's files a tenant's client learns nothing, from whatever
// has to do with builds; an operator sees them.
func TestTenantClientSeesNoPaths(t *testing.T) {
	for tenant, hidden := range map[string]bool{"acme": true, "": false} {
		c, ctx := dialAs(t, &pathy{}, tenant), ctxOf(t)
		var said []string
		_, berr := c.BuildPool(ctx, "acme", "w", func(p mvm.Progress) { said = append(said, p.Target, p.Text) })
		lerr := c.BuildLogs(ctx, "b-00000001", mvm.LogsSpec{}, func(l mvm.LogLine) error { said = append(said, l.Text); return nil })
		started, err1 := c.StartBuild(ctx, "acme", "w")
		all, err2 := c.Builds(ctx, "acme")
		one, err3 := c.BuildRun(ctx, "b-00000001")
		ended, err4 := c.CancelBuild(ctx, "b-00000001")
		for _, err := range []error{lerr, err1, err2, err3, err4} {
			if err != nil {
				t.Fatal(err)
			}
		}
		for what, text := range map[string]string{"said": strings.Join(said, "\n"), "error": berr.Error(), "started": js(started), "list": js(all), "info": js(one), "cancelled": js(ended)} {
			if got := !strings.Contains(text, "/srv") && !strings.Contains(text, "/var") && !strings.Contains(text, "/root"); got != hidden {
				t.Errorf("client of %q, %s: %s", tenant, what, text)
			}
			if hidden && !strings.Contains(text, noun.HiddenPath) {
				t.Errorf("%s does not say that a path was left out: %s", what, text)
			}
		}
		if !mvm.IsKind(berr, mvm.KindUnavailable) {
			t.Errorf("the kind of %v is lost", berr)
		}
	}
}
