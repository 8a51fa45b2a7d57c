package api

import (
	"context"
	"net/url"
	"strconv"

	"mvm"
	"mvm/internal/api/wire"
	"mvm/internal/build"
)

// Builds of images: routes, client, and what a tenant's client sees.

func (s *Server) buildRoutes(t *table) {
	const one = "/v1/builds/{build}"
	t.add("POST /v1/tenants/{tenant}/pools/{pool}/builds", forTenants, "Begin to build the pool's image, or join the build of it that is under way", unary(s, ofAgent, func(ctx context.Context, p params, _ none) (wire.BuildRun, error) {
		return wire.To[wire.BuildRun](s.svc(ctx).StartBuild(ctx, p.tenant, p.pool))
	}))
	t.add("GET /v1/builds", forTenants, "List builds of images, newest first", unary(s, ofClient, func(ctx context.Context, p params, _ none) ([]wire.BuildRun, error) {
		return wire.ToList[wire.BuildRun](s.svc(ctx).Builds(ctx, p.tenant))
	}), "tenant")
	t.add("GET "+one, forTenants, "A build of an image", unary(s, ofClient, func(ctx context.Context, p params, _ none) (wire.BuildRun, error) {
		return wire.To[wire.BuildRun](s.svc(ctx).BuildRun(ctx, p.build))
	}))
	t.add("GET "+one+"/logs", forTenants, "What a build says", follow(s, func(ctx context.Context, p params, each func(wire.LogLine) error) error {
		return s.svc(ctx).BuildLogs(ctx, p.build, mvm.LogsSpec{Tail: p.tail, Follow: p.follow}, func(l mvm.LogLine) error { return each(wire.LogLine{}.Of(l)) })
	}), "tail", "follow")
	t.add("POST "+one+"/cancel", forTenants, "Cancel a build", unary(s, ofAgent, func(ctx context.Context, p params, _ none) (wire.BuildRun, error) {
		return wire.To[wire.BuildRun](s.svc(ctx).CancelBuild(ctx, p.build))
	}))
}

func buildPath(id string) string { return "/v1/builds/" + url.PathEscape(id) }

// StartBuild implements Service.
func (c *Client) StartBuild(ctx context.Context, tenant, pool string) (build.Run, error) {
	return wire.From(call[wire.BuildRun](ctx, c, "POST", poolPath(tenant, pool)+"/builds", nil))
}

// Builds implements Service.
func (c *Client) Builds(ctx context.Context, tenant string) ([]build.Run, error) {
	return wire.FromList(call[[]wire.BuildRun](ctx, c, "GET", "/v1/builds?tenant="+url.QueryEscape(tenant), nil))
}

// BuildRun implements Service.
func (c *Client) BuildRun(ctx context.Context, id string) (build.Run, error) {
	return wire.From(call[wire.BuildRun](ctx, c, "GET", buildPath(id), nil))
}

// BuildLogs implements Service.
func (c *Client) BuildLogs(ctx context.Context, id string, spec mvm.LogsSpec, each func(mvm.LogLine) error) error {
	q := url.Values{"tail": {strconv.Itoa(spec.Tail)}, "follow": {strconv.FormatBool(spec.Follow)}}
	return items(ctx, c, buildPath(id)+"/logs?"+q.Encode(), func(l wire.LogLine) error { return each(l.Noun()) })
}

// CancelBuild implements Service.
func (c *Client) CancelBuild(ctx context.Context, id string) (build.Run, error) {
	return wire.From(call[wire.BuildRun](ctx, c, "POST", buildPath(id)+"/cancel", nil))
}

// hide takes the host's paths out of an error for a tenant's client.
func hide(err error) error {
	if err == nil {
		return nil
	}
	b := toBody(err)
	return &mvm.Error{Kind: b.Kind, Text: build.WithoutPaths(b.Message), Fix: build.WithoutPaths(b.Fix), Away: b.Away, Err: err}
}

// BuildPool implements Service.
func (s *scope) BuildPool(ctx context.Context, tenant, pool string, progress func(mvm.Progress)) (mvm.Build, error) {
	if err := s.own(tenant); err != nil {
		return mvm.Build{}, err
	}
	b, err := s.svc.BuildPool(ctx, tenant, pool, func(p mvm.Progress) {
		p.Target, p.Text = build.WithoutPaths(p.Target), build.WithoutPaths(p.Text)
		if progress != nil {
			progress(p)
		}
	})
	return b, hide(err)
}

// StartBuild implements Service.
func (s *scope) StartBuild(ctx context.Context, tenant, pool string) (build.Run, error) {
	if err := s.own(tenant); err != nil {
		return build.Run{}, err
	}
	r, err := s.svc.StartBuild(ctx, tenant, pool)
	return r.WithoutPaths(), hide(err)
}

// Builds implements Service.
func (s *scope) Builds(ctx context.Context, tenant string) ([]build.Run, error) {
	if tenant == "" {
		tenant = s.caller.Tenant
	}
	if err := s.own(tenant); err != nil {
		return nil, err
	}
	all, err := s.svc.Builds(ctx, tenant)
	for n := range all {
		all[n] = all[n].WithoutPaths()
	}
	return all, err
}

// BuildRun implements Service: a build of another tenant is as if it were not there.
func (s *scope) BuildRun(ctx context.Context, id string) (build.Run, error) {
	r, err := s.svc.BuildRun(ctx, id)
	if err == nil && r.Tenant != s.caller.Tenant {
		r, err = build.Run{}, build.NotFound(id)
	}
	return r.WithoutPaths(), err
}

// BuildLogs implements Service.
func (s *scope) BuildLogs(ctx context.Context, id string, spec mvm.LogsSpec, line func(mvm.LogLine) error) error {
	if _, err := s.BuildRun(ctx, id); err != nil {
		return err
	}
	return s.svc.BuildLogs(ctx, id, spec, func(l mvm.LogLine) error {
		l.Text = build.WithoutPaths(l.Text)
		return line(l)
	})
}

// CancelBuild implements Service.
func (s *scope) CancelBuild(ctx context.Context, id string) (build.Run, error) {
	if _, err := s.BuildRun(ctx, id); err != nil {
		return build.Run{}, err
	}
	r, err := s.svc.CancelBuild(ctx, id)
	return r.WithoutPaths(), err
}
