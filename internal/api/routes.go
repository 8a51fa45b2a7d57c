package api

import (
	"context"
	"encoding/json"
	"mvm/internal/api/wire"
	"net/http"

	"mvm"
)

// routes is the whole API. Addresses in paths have their separators escaped.
func (s *Server) routes() *table {
	t := &table{}
	t.add("GET /v1/version", forAll, "The agent's version", unary(s, ofClient, func(context.Context, params, none) (Version, error) { return s.version, nil }))
	t.add("GET /v1/openapi.json", forAll, "This description of the API, as OpenAPI", unary(s, ofClient, s.schema))
	s.tenantRoutes(t)
	s.poolRoutes(t)
	s.buildRoutes(t)
	s.instanceRoutes(t)
	s.snapshotRoutes(t)
	s.inboxRoutes(t)
	s.nodeRoutes(t)
	return t
}

// mux answers on the routes, and tells who asks for another that there is none.
func (s *Server) mux() *http.ServeMux {
	mux := s.routes().mux(s)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, mvm.Errorf(mvm.KindNotFound, "agent has no %s %.80q", r.Method, r.URL.Path).
			WithFix("use an mvm of the same version as the agent"))
	})
	return mux
}

func (s *Server) tenantRoutes(t *table) {
	t.add("GET /v1/tenants", forTenants, "List the tenants", unary(s, ofClient, func(ctx context.Context, _ params, _ none) ([]wire.Tenant, error) {
		return wire.ToList[wire.Tenant](s.svc(ctx).Tenants(ctx))
	}))
	t.add("POST /v1/tenants", forOperators, "Create a tenant", unary(s, ofAgent, func(ctx context.Context, _ params, in wire.TenantSpec) (wire.Tenant, error) {
		return wire.To[wire.Tenant](s.svc(ctx).CreateTenant(ctx, in.Noun()))
	}))
	t.add("GET /v1/tenants/{tenant}", forTenants, "A tenant and what it uses", unary(s, ofClient, func(ctx context.Context, p params, _ none) (tenantAnswer, error) {
		t, u, err := s.svc(ctx).Tenant(ctx, p.tenant)
		return tenantAnswer{Tenant: wire.Tenant{}.Of(t), Usage: wire.Usage{}.Of(u)}, err
	}))
	t.add("PATCH /v1/tenants/{tenant}", forOperators, "Change a tenant", unary(s, ofAgent, func(ctx context.Context, p params, in wire.TenantUpdate) (wire.Tenant, error) {
		return wire.To[wire.Tenant](s.svc(ctx).UpdateTenant(ctx, p.tenant, in.Noun()))
	}))
	t.add("DELETE /v1/tenants/{tenant}", forOperators, "Destroy a tenant with all that it has", stream(s, ofAgent, 0, func(ctx context.Context, p params, _ none, progress func(mvm.Progress)) (none, error) {
		return none{}, s.svc(ctx).DestroyTenant(ctx, p.tenant, progress)
	}))
	t.add("PATCH /v1/tenants/{tenant}/secrets", forTenants, "Set secrets, and remove those that are null", unary(s, ofAgent, func(ctx context.Context, p params, in secretsRequest) (generationAnswer, error) {
		n, err := s.svc(ctx).SetSecrets(ctx, p.tenant, in.Secrets)
		return generationAnswer{Generation: n}, err
	}))
	t.add("POST /v1/tenants/{tenant}/secrets/rotate", forTenants, "Give the secrets a new generation", unary(s, ofAgent, func(ctx context.Context, p params, _ none) (generationAnswer, error) {
		n, err := s.svc(ctx).RotateSecrets(ctx, p.tenant)
		return generationAnswer{Generation: n}, err
	}))
	t.add("POST /v1/tenants/{tenant}/key/rotate", forOperators, "Encrypt with another key of the tenant what its sleeping instances hold", unary(s, ofAgent, func(ctx context.Context, p params, _ none) (none, error) {
		return none{}, s.svc(ctx).RotateKey(ctx, p.tenant)
	}))
}

func (s *Server) poolRoutes(t *table) {
	const pool = "/v1/tenants/{tenant}/pools/{pool}"
	t.add("GET /v1/pools", forTenants, "List pools", unary(s, ofClient, func(ctx context.Context, p params, _ none) ([]wire.Pool, error) {
		return wire.ToList[wire.Pool](s.svc(ctx).Pools(ctx, p.tenant))
	}), "tenant")
	t.add("POST /v1/tenants/{tenant}/pools", forTenants, "Create a pool", unary(s, ofAgent, func(ctx context.Context, p params, in wire.PoolSpec) (wire.Pool, error) {
		return wire.To[wire.Pool](s.svc(ctx).CreatePool(ctx, p.tenant, in.Noun()))
	}))
	t.add("GET "+pool, forTenants, "A pool", unary(s, ofClient, func(ctx context.Context, p params, _ none) (wire.Pool, error) {
		return wire.To[wire.Pool](s.svc(ctx).Pool(ctx, p.tenant, p.pool))
	}))
	t.add("PATCH "+pool, forTenants, "Change a pool", unary(s, ofAgent, func(ctx context.Context, p params, in wire.PoolUpdate) (wire.Pool, error) {
		return wire.To[wire.Pool](s.svc(ctx).UpdatePool(ctx, p.tenant, p.pool, in.Noun()))
	}))
	t.add("DELETE "+pool, forTenants, "Destroy a pool with its instances", stream(s, ofAgent, 0, func(ctx context.Context, p params, _ none, progress func(mvm.Progress)) (none, error) {
		return none{}, s.svc(ctx).DestroyPool(ctx, p.tenant, p.pool, progress)
	}))
	t.add("POST "+pool+"/build", forTenants, "Build the pool's image", stream(s, ofClient, 0, func(ctx context.Context, p params, _ none, progress func(mvm.Progress)) (wire.Build, error) {
		return wire.To[wire.Build](s.svc(ctx).BuildPool(ctx, p.tenant, p.pool, progress))
	}))
	t.add("POST "+pool+"/rollback", forTenants, "Use an earlier build", unary(s, ofAgent, func(ctx context.Context, p params, in rollbackRequest) (wire.Build, error) {
		if in.Build != "" {
			if err := mvm.ValidateBuildID(in.Build); err != nil {
				return wire.Build{}, err
			}
		}
		return wire.To[wire.Build](s.svc(ctx).RollbackPool(ctx, p.tenant, p.pool, in.Build))
	}))
	t.add("POST "+pool+"/gc", forTenants, "Forget builds that nothing uses", unary(s, ofAgent, func(ctx context.Context, p params, _ none) ([]wire.Build, error) {
		return wire.ToList[wire.Build](s.svc(ctx).GCPool(ctx, p.tenant, p.pool))
	}))
	t.add("POST "+pool+"/instances", forTenants, "Create an instance", unary(s, ofAgent, func(ctx context.Context, p params, in createInstanceRequest) (wire.Instance, error) {
		return wire.To[wire.Instance](s.svc(ctx).CreateInstance(ctx, p.tenant, p.pool, in.Key))
	}))
}

func (s *Server) instanceRoutes(t *table) {
	const instance = "/v1/instances/{address}"
	t.add("GET /v1/instances", forTenants, "List instances", unary(s, ofClient, func(ctx context.Context, p params, _ none) ([]wire.Instance, error) {
		return wire.ToList[wire.Instance](s.svc(ctx).Instances(ctx, p.addr))
	}), "address")
	t.add("GET "+instance, forTenants, "An instance", unary(s, ofClient, func(ctx context.Context, p params, _ none) (wire.Instance, error) {
		if err := p.needInstance(); err != nil {
			return wire.Instance{}, err
		}
		return wire.To[wire.Instance](s.svc(ctx).Instance(ctx, p.addr))
	}))
	t.add("GET "+instance+"/stats", forTenants, "What an instance uses", unary(s, ofClient, func(ctx context.Context, p params, _ none) (wire.InstanceStats, error) {
		if err := p.needInstance(); err != nil {
			return wire.InstanceStats{}, err
		}
		return wire.To[wire.InstanceStats](s.svc(ctx).Stats(ctx, p.addr))
	}))
	t.add("GET /v1/usage", forTenants, "What the instances that hold memory use", unary(s, ofClient, func(ctx context.Context, p params, _ none) ([]wire.InstanceUsage, error) {
		return wire.ToList[wire.InstanceUsage](s.svc(ctx).Usage(ctx, p.addr))
	}), "address")
	t.add("GET "+instance+"/why", forTenants, "How an instance came to its state", unary(s, ofClient, func(ctx context.Context, p params, _ none) (wire.Story, error) {
		if err := p.needInstance(); err != nil {
			return wire.Story{}, err
		}
		return wire.To[wire.Story](s.svc(ctx).Why(ctx, p.addr))
	}))
	t.add("POST "+instance+"/operate", forTenants, "Start, stop, restart, warm, resume, sleep, wake or destroy an instance", stream(s, ofAgent, MaxBody, func(ctx context.Context, p params, in wire.OpRequest, progress func(mvm.Progress)) (wire.Instance, error) {
		if err := p.needInstance(); err != nil {
			return wire.Instance{}, err
		}
		return wire.To[wire.Instance](s.svc(ctx).Operate(ctx, p.addr, in.Noun(), progress))
	}))
	t.add("GET "+instance+"/logs", forTenants, "Logs of an instance's services, or its console", follow(s, func(ctx context.Context, p params, each func(wire.LogLine) error) error {
		if err := p.needInstance(); err != nil {
			return err
		}
		return s.svc(ctx).Logs(ctx, p.addr, mvm.LogsSpec{Service: p.service, Tail: p.tail, Follow: p.follow, Console: p.console,
			Since: p.since, Previous: p.previous},
			func(l mvm.LogLine) error { return each(wire.LogLine{}.Of(l)) })
	}), "service", "tail", "follow", "console", "since", "previous")
	t.add("GET "+instance+"/exec", forTenants, "Run a command in an instance", s.execEndpoint())
	t.add("GET "+instance+"/copy", forTenants, "Copy a file or folder into an instance, as stdin, or out of it, as stdout", s.copyEndpoint())
}

func (s *Server) snapshotRoutes(t *table) {
	const snapshot = "/v1/instances/{address}/snapshots/{snapshot}"
	t.add("GET /v1/snapshots", forTenants, "List snapshots that were set aside because they could not be used", unary(s, ofClient, func(ctx context.Context, p params, _ none) ([]wire.AsideSnapshot, error) {
		return wire.ToList[wire.AsideSnapshot](s.svc(ctx).Snapshots(ctx, p.addr))
	}), "address")
	t.add("POST "+snapshot+"/restore", forTenants, "Have a stopped instance sleep with a snapshot that was set aside", unary(s, ofAgent, func(ctx context.Context, p params, _ none) (wire.Instance, error) {
		if err := p.needInstance(); err != nil {
			return wire.Instance{}, err
		}
		return wire.To[wire.Instance](s.svc(ctx).RestoreSnapshot(ctx, p.addr, p.snapshot))
	}))
	t.add("DELETE "+snapshot, forTenants, "Remove a snapshot that was set aside", unary(s, ofAgent, func(ctx context.Context, p params, _ none) (none, error) {
		if err := p.needInstance(); err != nil {
			return none{}, err
		}
		return none{}, s.svc(ctx).RemoveSnapshot(ctx, p.addr, p.snapshot)
	}))
}

func (s *Server) inboxRoutes(t *table) {
	const message = "/v1/tenants/{tenant}/pools/{pool}/inbox/{message}"
	t.add("GET /v1/tenants/{tenant}/inbox", forTenants, "List the messages of chats that the tenant's gateways keep", unary(s, ofClient, func(ctx context.Context, p params, _ none) ([]wire.Message, error) {
		return wire.ToList[wire.Message](s.svc(ctx).Messages(ctx, p.tenant))
	}))
	t.add("GET "+message, forTenants, "A message of a chat with its text, which is recorded", unary(s, ofClient, func(ctx context.Context, p params, _ none) (wire.Message, error) {
		return wire.To[wire.Message](s.svc(ctx).Message(ctx, p.tenant, p.pool, p.message))
	}))
	t.add("POST "+message+"/retry", forTenants, "Have a message tried again at once", unary(s, ofClient, func(ctx context.Context, p params, _ none) (none, error) {
		return none{}, s.svc(ctx).RetryMessage(ctx, p.tenant, p.pool, p.message)
	}))
	t.add("DELETE "+message, forTenants, "Give a message up", unary(s, ofClient, func(ctx context.Context, p params, _ none) (none, error) {
		return none{}, s.svc(ctx).DropMessage(ctx, p.tenant, p.pool, p.message)
	}))
}

func (s *Server) nodeRoutes(t *table) {
	t.add("POST /v1/deploy", forTenants, "Make a tenant agree with a deployment", stream(s, ofClient, MaxDeployBody, func(ctx context.Context, _ params, in deployRequest, progress func(mvm.Progress)) ([]wire.PlanStep, error) {
		d := in.Deployment.Noun()
		if in.NoSecrets && d.Secrets == nil {
			d.Secrets = map[string][]byte{}
		}
		return wire.ToList[wire.PlanStep](s.svc(ctx).Apply(ctx, d, mvm.ApplyOptions{Dry: in.Dry, NoWait: in.NoWait, Force: in.Force, Manifest: in.Manifest}, progress))
	}))
	t.add("POST /v1/reconcile", forTenants, "Make the host agree with a desired state, or with its record", stream(s, ofClient, MaxStateBody, func(ctx context.Context, _ params, in wire.ReconcileRequest, progress func(mvm.Progress)) ([]wire.PlanStep, error) {
		return wire.ToList[wire.PlanStep](s.svc(ctx).Reconcile(ctx, in.Noun(), progress))
	}))
	t.add("GET /v1/desired", forOperators, "The desired state that would make this host again", unary(s, ofClient, func(ctx context.Context, _ params, _ none) (json.RawMessage, error) {
		return s.svc(ctx).Desired(ctx)
	}))
	t.add("GET /v1/events", forTenants, "The audit log", follow(s, func(ctx context.Context, p params, each func(wire.Event) error) error {
		return s.svc(ctx).Events(ctx, mvm.EventFilter{Tenant: p.tenant, Pool: p.pool, Instance: p.instance, Tail: p.tail, Follow: p.follow,
			Since: p.since, Actions: p.actions, After: p.after},
			func(e mvm.Event) error { return each(wire.Event{}.Of(e)) })
	}), "tenant", "pool", "instance", "tail", "follow", "since", "action", "after")
	t.add("GET /v1/events/verify", forOperators, "Whether the audit log is what was written", unary(s, ofClient, func(ctx context.Context, p params, _ none) (wire.AuditReport, error) {
		return wire.To[wire.AuditReport](s.svc(ctx).VerifyEvents(ctx, p.expect))
	}), "expect")
	t.add("GET /v1/node/info", forOperators, "The host, the agent and its VMM", unary(s, ofClient, func(ctx context.Context, _ params, _ none) (wire.NodeInfo, error) {
		return wire.To[wire.NodeInfo](s.svc(ctx).NodeInfo(ctx))
	}))
	t.add("GET /v1/node/stats", forOperators, "What runs on the host", unary(s, ofClient, func(ctx context.Context, _ params, _ none) (wire.NodeStats, error) {
		return wire.To[wire.NodeStats](s.svc(ctx).NodeStats(ctx))
	}))
	t.add("GET /v1/node/disk", forOperators, "What mvm holds on the host's disk", unary(s, ofClient, func(ctx context.Context, _ params, _ none) (wire.NodeDisk, error) {
		return wire.To[wire.NodeDisk](s.svc(ctx).NodeDisk(ctx))
	}))
	t.add("POST /v1/node/check", forOperators, "Compare the host's files with its records", stream(s, ofClient, MaxBody, func(ctx context.Context, _ params, in wire.NodeCheck, progress func(mvm.Progress)) ([]wire.Finding, error) {
		return wire.ToList[wire.Finding](s.svc(ctx).NodeCheck(ctx, in.Noun(), progress))
	}))
	t.add("POST /v1/node/gc", forOperators, "Remove what nothing uses", unary(s, ofAgent, func(ctx context.Context, _ params, _ none) (freedAnswer, error) {
		n, err := s.svc(ctx).NodeGC(ctx)
		return freedAnswer{Freed: n}, err
	}))
	t.add("POST /v1/net/verify", forOperators, "Check that tenants are isolated", stream(s, ofClient, MaxBody, func(ctx context.Context, _ params, in verifyRequest, progress func(mvm.Progress)) ([]wire.Finding, error) {
		return wire.ToList[wire.Finding](s.svc(ctx).NetVerify(ctx, in.Live, progress))
	}))
	t.add("GET /v1/doctor", forOperators, "Check the host", unary(s, ofClient, func(ctx context.Context, _ params, _ none) ([]wire.Finding, error) {
		return wire.ToList[wire.Finding](s.svc(ctx).Doctor(ctx))
	}))
	t.add("GET /v1/tenants/{tenant}/doctor", forTenants, "Check the tenant's channels", unary(s, ofClient, func(ctx context.Context, p params, _ none) ([]wire.Finding, error) {
		return wire.ToList[wire.Finding](s.svc(ctx).DoctorTenant(ctx, p.tenant))
	}))
}
