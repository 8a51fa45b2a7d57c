package agent

import (
	"context"

	"mvm"
	"mvm/internal/fleet"
	"mvm/internal/health"
)

// Observe implements fleet.Watch: it adds to a record what is known of the instance beside it.
func (w watched) Observe(i *mvm.Instance) {
	i.Idle = w.a.idle.Status(*i)
	i.Health = w.a.health.Of(*i)
	if i.State == mvm.StateRunning {
		i.Stalled = w.a.live.Stalled(i.ID)
	}
}

// serviceError says of a service of the instance that it does not come up, with the last
// lines of its log.
func (a *Agent) serviceError(ctx context.Context, what string, i mvm.Instance, s mvm.ServiceHealth) *mvm.Error {
	return health.Error(what, i, s, a.session.LastLines(ctx, i.ID, s.Name))
}

// serviceFails is an error of an instance that runs and serves nobody: a service of it does
// not come up.
type serviceFails struct{ error }

func (e *serviceFails) Unwrap() error { return e.error }

// servesNobody is the error of an instance that runs, and a service of which does not come
// up; nil where that is not so.
func (o *operation) servesNobody(ctx context.Context) error {
	s := o.a.health.GaveUp(o.inst)
	if s == nil {
		return nil
	}
	return &serviceFails{o.a.serviceError(ctx, string(o.kind)+" "+o.inst.ID+": it runs", o.inst, *s)}
}

// lastOf adds to an instance's story the last lines of what has to do with how it is.
func (a *Agent) lastOf(ctx context.Context, s *mvm.Story) {
	i := s.Instance
	if w := i.Health.Worst(); w != nil && w.Failing {
		s.LastOf, s.LastLines = w.Name, a.session.LastLines(ctx, i.ID, w.Name)
	} else if l := i.Last; i.State == mvm.StateStopped && l != nil && l.Op == mvm.OpStop && l.By.Kind == mvm.AskerAgent {
		s.LastOf, s.LastLines = "console", a.session.LastConsole(i.ID)
	}
	if len(s.LastLines) > 0 && mvm.Recorded(ctx) {
		a.session.RecordUse(ctx, mvm.LogsRead, i, s.LastOf)
	}
}

// watched is what the table of health and the fleet ask of the agent.
type watched struct{ guests }

var (
	_ health.Guests    = watched{}
	_ health.Idle      = watched{}
	_ health.Reconcile = watched{}
	_ fleet.Watch      = watched{}
)

// Question implements health.Idle.
func (w watched) Question(ctx context.Context, ask func(context.Context) error) error {
	return w.a.idle.Question(ctx, ask)
}

// Poke implements health.Reconcile.
func (w watched) Poke(tenant string) { w.a.reconciler.Poke(tenant) }
