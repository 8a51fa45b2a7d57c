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
	i.Health, i.Backlog = w.a.health.Of(*i), w.a.health.Backlog(*i)
	i.Building = w.a.builds.Of(mvm.Address{Tenant: i.Tenant, Pool: i.Pool})
	i.Unlimited = w.a.live.Unlimited(i.ID)
	if i.State == mvm.StateRunning {
		i.Stalled = w.a.live.Stalled(i.ID)
	}
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
