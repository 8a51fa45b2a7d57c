package health

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/guestproto"
	"mvm/internal/store"
)

// maxImageIntegrations bounds what is kept of an image's own services.
const maxImageIntegrations = 8

// NoteIntegrations asks how the integrations are and records it. What can't be had
// leaves the record as it is, and so does an answer from before the services held still, or went on.
func (t *Table) NoteIntegrations(ctx context.Context, i mvm.Instance) {
	states, err := t.Integrations(ctx, i)
	if err == nil {
		err = t.opt.Store.Update(func(tx *store.Tx) error {
			now, err := tx.Instance(i.ID)
			if err != nil || now.Held != i.Held {
				return err
			}
			now.Integrations = states
			return tx.PutInstance(now)
		})
	}
	if err != nil && ctx.Err() == nil && !mvm.IsKind(err, mvm.KindNotFound) {
		t.opt.Log.Warn("ask for the state of integrations", "instance", i.ID, "error", err)
	}
}

// Integrations asks the guest how the integrations of its pool and image are.
func (t *Table) Integrations(ctx context.Context, i mvm.Instance) ([]mvm.IntegrationState, error) {
	var p mvm.Pool
	err := t.opt.Store.View(func(tx *store.Tx) (err error) {
		p, err = tx.Pool(i.Tenant, i.Pool)
		return err
	})
	if err != nil || len(p.Spec.Integrations) == 0 && !i.Suspends {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, t.opt.Call)
	defer cancel()
	resp, err := t.opt.Guests.Ask(ctx, i.ID, guestproto.Request{IntegrationStatus: true})
	if err != nil {
		return nil, err
	}
	if resp.IntegrationStatusReport == nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "ask for integrations of %s: unexpected answer from the guest", i.ID)
	}
	return StatesOf(p.Spec.Integrations, resp.IntegrationStatusReport.Integrations), nil
}

// StatesOf takes what a guest says of the integrations that it was given, bounded.
func StatesOf(list []mvm.Integration, said []guestproto.IntegrationState) []mvm.IntegrationState {
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
