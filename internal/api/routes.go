package api

import (
	"context"
	"net/http"

	"mvm"
)

// routes is the whole API. Addresses in paths have their separators escaped.
func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("GET /v1/version", unary(s, ofClient, func(context.Context, params, none) (Version, error) { return s.version, nil }))
	s.tenantRoutes(mux)
	s.poolRoutes(mux)
	s.instanceRoutes(mux)
	s.nodeRoutes(mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, mvm.Errorf(mvm.KindInvalid, "agent has no %s %.80q", r.Method, r.URL.Path).
			WithFix("client and agent may differ in version"))
	})
	return mux
}

func (s *Server) tenantRoutes(mux *http.ServeMux) {
	mux.Handle("GET /v1/tenants", unary(s, ofClient, func(ctx context.Context, _ params, _ none) ([]mvm.Tenant, error) {
		return list(s.svc.Tenants(ctx))
	}))
	mux.Handle("POST /v1/tenants", unary(s, ofAgent, func(ctx context.Context, _ params, in mvm.TenantSpec) (mvm.Tenant, error) {
		return s.svc.CreateTenant(ctx, in)
	}))
	mux.Handle("GET /v1/tenants/{tenant}", unary(s, ofClient, func(ctx context.Context, p params, _ none) (tenantAnswer, error) {
		t, u, err := s.svc.Tenant(ctx, p.tenant)
		return tenantAnswer{Tenant: t, Usage: u}, err
	}))
	mux.Handle("PATCH /v1/tenants/{tenant}", unary(s, ofAgent, func(ctx context.Context, p params, in mvm.TenantUpdate) (mvm.Tenant, error) {
		return s.svc.UpdateTenant(ctx, p.tenant, in)
	}))
	mux.Handle("DELETE /v1/tenants/{tenant}", stream(s, ofAgent, 0, func(ctx context.Context, p params, _ none, progress func(mvm.Progress)) (none, error) {
		return none{}, s.svc.DestroyTenant(ctx, p.tenant, progress)
	}))
	mux.Handle("PATCH /v1/tenants/{tenant}/secrets", unary(s, ofAgent, func(ctx context.Context, p params, in secretsRequest) (generationAnswer, error) {
		n, err := s.svc.SetSecrets(ctx, p.tenant, in.Secrets)
		return generationAnswer{Generation: n}, err
	}))
	mux.Handle("POST /v1/tenants/{tenant}/secrets/rotate", unary(s, ofAgent, func(ctx context.Context, p params, _ none) (generationAnswer, error) {
		n, err := s.svc.RotateSecrets(ctx, p.tenant)
		return generationAnswer{Generation: n}, err
	}))
}

func (s *Server) poolRoutes(mux *http.ServeMux) {
	const pool = "/v1/tenants/{tenant}/pools/{pool}"
	mux.Handle("GET /v1/pools", unary(s, ofClient, func(ctx context.Context, p params, _ none) ([]mvm.Pool, error) {
		return list(s.svc.Pools(ctx, p.tenant))
	}))
	mux.Handle("POST /v1/tenants/{tenant}/pools", unary(s, ofAgent, func(ctx context.Context, p params, in mvm.PoolSpec) (mvm.Pool, error) {
		return s.svc.CreatePool(ctx, p.tenant, in)
	}))
	mux.Handle("GET "+pool, unary(s, ofClient, func(ctx context.Context, p params, _ none) (mvm.Pool, error) {
		return s.svc.Pool(ctx, p.tenant, p.pool)
	}))
	mux.Handle("PATCH "+pool, unary(s, ofAgent, func(ctx context.Context, p params, in mvm.PoolUpdate) (mvm.Pool, error) {
		return s.svc.UpdatePool(ctx, p.tenant, p.pool, in)
	}))
	mux.Handle("DELETE "+pool, stream(s, ofAgent, 0, func(ctx context.Context, p params, _ none, progress func(mvm.Progress)) (none, error) {
		return none{}, s.svc.DestroyPool(ctx, p.tenant, p.pool, progress)
	}))
	mux.Handle("POST "+pool+"/build", stream(s, ofClient, 0, func(ctx context.Context, p params, _ none, progress func(mvm.Progress)) (mvm.Build, error) {
		return s.svc.BuildPool(ctx, p.tenant, p.pool, progress)
	}))
	mux.Handle("POST "+pool+"/rollback", unary(s, ofAgent, func(ctx context.Context, p params, in rollbackRequest) (mvm.Build, error) {
		if in.Build != "" {
			if err := mvm.ValidateBuildID(in.Build); err != nil {
				return mvm.Build{}, err
			}
		}
		return s.svc.RollbackPool(ctx, p.tenant, p.pool, in.Build)
	}))
	mux.Handle("POST "+pool+"/gc", unary(s, ofAgent, func(ctx context.Context, p params, _ none) ([]mvm.Build, error) {
		return list(s.svc.GCPool(ctx, p.tenant, p.pool))
	}))
	mux.Handle("POST "+pool+"/instances", unary(s, ofAgent, func(ctx context.Context, p params, in createInstanceRequest) (mvm.Instance, error) {
		return s.svc.CreateInstance(ctx, p.tenant, p.pool, in.Key)
	}))
}

func (s *Server) instanceRoutes(mux *http.ServeMux) {
	const instance = "/v1/instances/{address}"
	mux.Handle("GET /v1/instances", unary(s, ofClient, func(ctx context.Context, p params, _ none) ([]mvm.Instance, error) {
		return list(s.svc.Instances(ctx, p.addr))
	}))
	mux.Handle("GET "+instance, unary(s, ofClient, func(ctx context.Context, p params, _ none) (mvm.Instance, error) {
		if err := p.needInstance(); err != nil {
			return mvm.Instance{}, err
		}
		return s.svc.Instance(ctx, p.addr)
	}))
	mux.Handle("GET "+instance+"/stats", unary(s, ofClient, func(ctx context.Context, p params, _ none) (mvm.InstanceStats, error) {
		if err := p.needInstance(); err != nil {
			return mvm.InstanceStats{}, err
		}
		return s.svc.Stats(ctx, p.addr)
	}))
	mux.Handle("POST "+instance+"/operate", stream(s, ofAgent, MaxBody, func(ctx context.Context, p params, in mvm.OpRequest, progress func(mvm.Progress)) (mvm.Instance, error) {
		if err := p.needInstance(); err != nil {
			return mvm.Instance{}, err
		}
		return s.svc.Operate(ctx, p.addr, in, progress)
	}))
	mux.Handle("GET "+instance+"/logs", follow(s, func(ctx context.Context, p params, each func(mvm.LogLine) error) error {
		if err := p.needInstance(); err != nil {
			return err
		}
		return s.svc.Logs(ctx, p.addr, mvm.LogsSpec{Service: p.service, Tail: p.tail, Follow: p.follow, Console: p.console}, each)
	}))
	mux.HandleFunc("POST "+instance+"/exec", s.exec)
}

func (s *Server) nodeRoutes(mux *http.ServeMux) {
	mux.Handle("POST /v1/deploy", stream(s, ofClient, MaxDeployBody, func(ctx context.Context, _ params, in deployRequest, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
		if in.NoSecrets && in.Deployment.Secrets == nil {
			in.Deployment.Secrets = map[string][]byte{}
		}
		return list(s.svc.Apply(ctx, in.Deployment, in.Dry, progress))
	}))
	mux.Handle("GET /v1/events", follow(s, func(ctx context.Context, p params, each func(mvm.Event) error) error {
		return s.svc.Events(ctx, mvm.EventFilter{Tenant: p.tenant, Pool: p.pool, Instance: p.instance, Tail: p.tail, Follow: p.follow}, each)
	}))
	mux.Handle("GET /v1/node/info", unary(s, ofClient, func(ctx context.Context, _ params, _ none) (mvm.NodeInfo, error) {
		return s.svc.NodeInfo(ctx)
	}))
	mux.Handle("GET /v1/node/stats", unary(s, ofClient, func(ctx context.Context, _ params, _ none) (mvm.NodeStats, error) {
		return s.svc.NodeStats(ctx)
	}))
	mux.Handle("GET /v1/node/disk", unary(s, ofClient, func(ctx context.Context, _ params, _ none) (mvm.NodeDisk, error) {
		return s.svc.NodeDisk(ctx)
	}))
	mux.Handle("POST /v1/node/gc", unary(s, ofAgent, func(ctx context.Context, _ params, _ none) (freedAnswer, error) {
		n, err := s.svc.NodeGC(ctx)
		return freedAnswer{Freed: n}, err
	}))
	mux.Handle("POST /v1/net/verify", stream(s, ofClient, MaxBody, func(ctx context.Context, _ params, in verifyRequest, progress func(mvm.Progress)) ([]mvm.Finding, error) {
		return list(s.svc.NetVerify(ctx, in.Live, progress))
	}))
	mux.Handle("GET /v1/doctor", unary(s, ofClient, func(ctx context.Context, _ params, _ none) ([]mvm.Finding, error) {
		return list(s.svc.Doctor(ctx))
	}))
}

// list makes an empty list of none, so that clients never read null.
func list[T any](v []T, err error) ([]T, error) {
	if v == nil {
		v = []T{}
	}
	return v, err
}
