package hostd

import (
	"context"
	"os"

	"mvm"
	"mvm/internal/driver/vmproc"
	"mvm/internal/network"
)

// request is a frame that has come, from whom the kernel says.
type request struct {
	op    op
	body  []byte
	files []*os.File
	from  vmproc.Owner
}

// do does what the request asks for. Only here and in the functions that it names is
// anything done for a caller.
func (s *Server) do(ctx context.Context, r request) (reply, error) {
	if len(r.files) > 0 && r.op != opStart && r.op != opRead && r.op != opWrite {
		return reply{}, mvm.Errorf(mvm.KindInvalid, "read request: %d files that it has no use for", len(r.files))
	}
	switch r.op {
	case opHello:
		return handle(ctx, r, func(context.Context, none) (reply, error) { return reply{body: hello{s.epoch}}, nil })
	case opScope:
		return handle(ctx, r, s.scope)
	case opApply:
		return handle(ctx, r, s.apply)
	case opTAP:
		return handle(ctx, r, s.tap)
	case opResolver:
		return handle(ctx, r, s.resolver)
	case opAdmit:
		return handle(ctx, r, s.openAddresses)
	case opDropped:
		return handle(ctx, r, s.dropped)
	case opSweep:
		return handle(ctx, r, s.sweep)
	case opSurvey:
		return handle(ctx, r, s.survey)
	case opOccupied:
		return handle(ctx, r, s.occupied)
	case opVerify:
		return handle(ctx, r, s.verify)
	case opLaunch:
		return reply{}, mvm.Errorf(mvm.KindInvalid, "start a VMM: this agent is from an older mvm version than mvm hostd").WithFix("restart the agent: systemctl restart mvm-agent")
	case opStart:
		return handle(ctx, r, func(ctx context.Context, l launchRequest) (reply, error) { return s.launch(ctx, l, r) })
	case opFind:
		return handle(ctx, r, s.find)
	case opKill:
		return handle(ctx, r, s.kill)
	case opExit:
		return handle(ctx, r, s.exit)
	case opStats:
		return handle(ctx, r, s.stats)
	case opLimitCPU:
		return handle(ctx, r, s.limitCPU)
	case opList:
		return handle(ctx, r, s.list)
	case opLeave:
		return handle(ctx, r, s.leave)
	case opChanged:
		return handle(ctx, r, s.changed)
	case opWalls:
		return handle(ctx, r, s.walls)
	case opRead, opWrite:
		return handle(ctx, r, func(ctx context.Context, p pagesRequest) (reply, error) { return s.copyPages(ctx, p, r) })
	}
	return reply{}, mvm.Errorf(mvm.KindInvalid, "read request: there is no kind %d", r.op)
}

// handle decodes what a request carries.
func handle[T any](ctx context.Context, r request, do func(context.Context, T) (reply, error)) (reply, error) {
	v, err := decode[T](r.body)
	if err != nil {
		return reply{}, err
	}
	return do(ctx, v)
}

func (s *Server) scope(context.Context, none) (reply, error) {
	b := s.opt.Bounds
	sc := Scope{RunRoot: b.RunRoot, ProbeRoot: b.ProbeRoot, FirstUID: b.FirstUID}
	if s.opt.Mark != nil {
		mark, err := s.opt.Mark()
		if err != nil {
			return reply{}, err
		}
		sc.Mark = mark
	}
	return reply{body: scopeAnswer{sc}}, nil
}

func (s *Server) apply(ctx context.Context, cfg network.Config) (reply, error) {
	if err := cfg.Validate(); err != nil {
		return reply{}, err
	}
	for _, t := range cfg.Tenants { // names get into logs and findings
		if err := mvm.ValidateName("tenant", t.ID); err != nil {
			return reply{}, err
		}
		for _, i := range t.Instances {
			if err := mvm.ValidateInstanceID(i.ID); err != nil {
				return reply{}, err
			}
		}
	}
	return reply{body: none{}}, s.opt.Network.Apply(ctx, cfg)
}

func (s *Server) tap(ctx context.Context, t tapRequest) (reply, error) {
	if t.UID < s.opt.Bounds.FirstUID || t.UID > s.opt.Bounds.LastUID {
		return reply{}, mvm.Errorf(mvm.KindPolicy, "open TAP: user %d is not of those for instances", t.UID)
	}
	f, err := s.opt.Network.OpenTAP(ctx, t.Tenant, t.Instance, t.UID)
	if err != nil {
		return reply{}, err
	}
	return reply{body: none{}, files: []*os.File{f}}, nil
}

// names are the networks, where they have names.
func (s *Server) names() (network.Names, error) {
	if n, ok := s.opt.Network.(network.Names); ok {
		return n, nil
	}
	return nil, mvm.Errorf(mvm.KindUnavailable, "serve names: these networks have none")
}

// resolver hands on the sockets at port 53 of a tenant's gateway address, which the config
// that was applied last says, and no other.
func (s *Server) resolver(ctx context.Context, r resolverRequest) (reply, error) {
	n, err := s.names()
	if err != nil {
		return reply{}, err
	}
	udp, tcp, err := n.OpenResolver(ctx, r.Tenant)
	if err != nil {
		return reply{}, err
	}
	return reply{body: none{}, files: []*os.File{udp, tcp}}, nil
}

func (s *Server) openAddresses(ctx context.Context, r admitRequest) (reply, error) {
	n, err := s.names()
	if err != nil {
		return reply{}, err
	}
	return reply{body: none{}}, n.Admit(ctx, r.Tenant, r.Instance, r.List)
}

func (s *Server) dropped(ctx context.Context, r droppedRequest) (reply, error) {
	n, ok := s.opt.Network.(network.Counters)
	if !ok {
		return reply{}, mvm.Errorf(mvm.KindUnavailable, "count dropped frames: these networks don't")
	}
	d, err := n.Dropped(ctx, r.Tenant, r.Instance)
	return reply{body: d}, err
}

func (s *Server) sweep(ctx context.Context, _ none) (reply, error) {
	removed, err := s.opt.Network.Sweep(ctx)
	return reply{body: sweepAnswer{removed}}, err
}

func (s *Server) occupied(ctx context.Context, _ none) (reply, error) {
	ranges, err := s.opt.Network.Occupied(ctx)
	return reply{body: occupiedAnswer{ranges}}, err
}

func (s *Server) verify(ctx context.Context, _ none) (reply, error) {
	found, err := s.opt.Network.Verify(ctx)
	return reply{body: verifyAnswer{found}}, err
}
