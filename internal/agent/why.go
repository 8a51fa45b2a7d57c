package agent

import (
	"context"

	"mvm"
	"mvm/internal/fleet"
	"mvm/internal/store"
)

// Of the events that say what did not go as wanted, the last ones are told, and no more
// than so many events are looked at for them.
const (
	storyNotes = 8
	storyLook  = 5_000
)

// Why implements api.Service.
func (a *Agent) Why(ctx context.Context, addr mvm.Address) (s mvm.Story, err error) {
	err = a.store.View(func(tx *store.Tx) error {
		if s.Instance, err = fleet.Resolve(tx, addr); err != nil {
			return err
		}
		t, err := tx.Tenant(s.Instance.Tenant)
		if err != nil {
			return err
		}
		s.TenantSecrets = t.SecretsGeneration
		if s.Transitions, err = tx.Transitions(s.Instance.ID); err != nil {
			return err
		}
		s.Notes, err = tx.TailEvents(mvm.EventFilter{Instance: s.Instance.ID, Since: s.Instance.Changed,
			Actions: []mvm.Action{mvm.TransitionDeferred, mvm.DrainTimedOut, mvm.WakeRefused, mvm.QuotaExceeded, mvm.TimerSkipped}}, storyNotes, storyLook)
		return err
	})
	if err != nil {
		return s, err
	}
	watched{guests{a}}.Observe(&s.Instance)
	a.lastOf(ctx, &s)
	s.Queued, _ = a.lifecycle.Queued(s.Instance.ID)
	return s, ctx.Err()
}
