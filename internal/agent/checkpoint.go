package agent

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/guestproto"
	"mvm/internal/store"
)

// maxImageIntegrations bounds what is kept of an image's own services.
const maxImageIntegrations = 8

// checkpoint has the guest's integrations saved. A critical one that fails keeps
// the instance awake, on record; any other is recorded and the sleep goes on.
func (o *operation) checkpoint(ctx context.Context) error {
	list := o.pool.Spec.Integrations
	if len(list) == 0 {
		return nil
	}
	var names []string
	for _, i := range list {
		names = append(names, i.Name)
	}
	failed, why := o.askCheckpoint(ctx, names)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	o.a.noteIntegrations(ctx, o.inst)
	for _, i := range list {
		if i.Critical && slices.Contains(failed, i.Name) && !o.job.req.force {
			o.deferred("critical integration " + i.Name + " could not be checkpointed: " + why)
			return mvm.Errorf(mvm.KindPolicy, "checkpoint integration %q failed and it is critical: the instance stays awake: %s", i.Name, why).
				WithFix("see `mvm logs %s`; --force puts it to sleep anyway", o.inst.ID)
		}
	}
	if len(failed) > 0 {
		o.log.Warn("checkpoint failed", "integrations", failed, "why", why)
	}
	return nil
}

// askCheckpoint returns those of the names that were not checkpointed, and why.
func (o *operation) askCheckpoint(ctx context.Context, names []string) (failed []string, why string) {
	ctx, cancel := context.WithTimeout(ctx, o.a.integrationsTime(o.pool.Spec.Integrations))
	defer cancel()
	resp, err := o.a.live.Ask(ctx, o.inst.ID, guestproto.Request{CheckpointIntegrations: &guestproto.CheckpointIntegrations{Integrations: names}})
	switch r := resp.CheckpointResult; {
	case err != nil:
		return names, display.Clip(err.Error())
	case r == nil:
		return names, "unexpected answer from the guest"
	case r.Success:
		return nil, ""
	default:
		return slices.DeleteFunc(names, func(n string) bool { return !slices.Contains(r.Failed, n) }), detail(r.Detail)
	}
}

// integrationsTime is how long the commands of all of them may take, one after the other.
func (a *Agent) integrationsTime(list []mvm.Integration) time.Duration {
	sum := a.opt.Timeouts.Call
	for _, i := range list {
		sum += i.Timeout()
	}
	return sum
}

// restoreIntegrations has the guest's integrations restored, which nothing waits for,
// once traffic may come.
func (o *operation) restoreIntegrations() {
	i, list := o.inst, o.pool.Spec.Integrations
	if len(list) == 0 && !i.Suspends {
		return
	}
	o.a.goTracked(func() {
		if len(list) == 0 {
			o.a.noteIntegrations(o.a.ctx, i)
			return
		}
		ctx, cancel := context.WithTimeout(o.a.ctx, o.a.integrationsTime(list))
		defer cancel()
		resp, err := o.a.live.Ask(ctx, i.ID, guestproto.Request{Wake: true})
		if err != nil || resp.WakeAck == nil || !resp.WakeAck.Success {
			o.log.Warn("restore integrations", "error", err)
		}
		o.a.noteIntegrations(o.a.ctx, i)
	})
}

// noteIntegrations asks how the integrations are and records it. What can't be had
// leaves the record as it is.
func (a *Agent) noteIntegrations(ctx context.Context, i mvm.Instance) {
	states, err := a.integrationStates(ctx, i)
	if err == nil {
		err = a.store.Update(func(tx *store.Tx) error {
			now, err := tx.Instance(i.ID)
			if err != nil {
				return err
			}
			now.Integrations = states
			return tx.PutInstance(now)
		})
	}
	if err != nil && a.ctx.Err() == nil && !mvm.IsKind(err, mvm.KindNotFound) {
		a.log.Warn("ask for the state of integrations", "instance", i.ID, "error", err)
	}
}

// integrationStates asks the guest how the integrations of its pool and image are.
func (a *Agent) integrationStates(ctx context.Context, i mvm.Instance) ([]mvm.IntegrationState, error) {
	var p mvm.Pool
	err := a.store.View(func(tx *store.Tx) (err error) {
		p, err = tx.Pool(i.Tenant, i.Pool)
		return err
	})
	if err != nil || len(p.Spec.Integrations) == 0 && !i.Suspends {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, a.opt.Timeouts.Call)
	defer cancel()
	resp, err := a.live.Ask(ctx, i.ID, guestproto.Request{IntegrationStatus: true})
	if err != nil {
		return nil, err
	}
	if resp.IntegrationStatusReport == nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "ask for integrations of %s: unexpected answer from the guest", i.ID)
	}
	return statesOf(p.Spec.Integrations, resp.IntegrationStatusReport.Integrations), nil
}

// statesOf takes what a guest says of the integrations that it was given, bounded.
func statesOf(list []mvm.Integration, said []guestproto.IntegrationState) []mvm.IntegrationState {
	var out []mvm.IntegrationState
	for _, i := range list {
		s := mvm.IntegrationState{Name: i.Name, Critical: i.Critical, Status: mvm.IntegrationPending}
		if n := slices.IndexFunc(said, func(g guestproto.IntegrationState) bool { return g.Name == i.Name }); n >= 0 {
			takeState(&s, said[n])
		}
		out = append(out, s)
	}
	return append(out, imageStates(said)...)
}

// imageStates are those of the image's own services.
func imageStates(said []guestproto.IntegrationState) (out []mvm.IntegrationState) {
	for _, g := range said {
		if !g.Image || mvm.ValidateName("service", g.Name) != nil || len(out) == maxImageIntegrations {
			continue
		}
		s := mvm.IntegrationState{Name: g.Name, Critical: true, Image: true}
		takeState(&s, g)
		out = append(out, s)
	}
	return out
}

func takeState(s *mvm.IntegrationState, g guestproto.IntegrationState) {
	s.Status, s.Error = parseStatus(g.Status)
	s.StateBytes = max(g.StateSizeBytes, 0)
	if g.LastCheckpointAt != nil {
		s.LastCheckpointAt = *g.LastCheckpointAt
	}
}

// parseStatus reads "active", "paused", "pending" or {"error":"…"} (formats.md
// section 4).
func parseStatus(raw json.RawMessage) (status, why string) {
	var text string
	if json.Unmarshal(raw, &text) == nil && slices.Contains([]string{mvm.IntegrationActive, mvm.IntegrationPaused, mvm.IntegrationPending}, text) {
		return text, ""
	}
	var failed struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(raw, &failed) != nil || failed.Error == "" {
		failed.Error = "the guest gave another status"
	}
	return mvm.IntegrationError, strings.ToValidUTF8(display.Clip(failed.Error), "?")
}
