package fake

import (
	"encoding/json"
	"slices"
	"time"

	"mvm/internal/guestproto"
)

// saved is what became of an integration in a guest.
type saved struct {
	Status string    `json:"status"` // as IntegrationState has it, or "error: " and the reason
	At     time.Time `json:"at,omitzero"`
}

// integrations reports every configured integration.
func (g *guestState) integrations(b Behavior) *guestproto.IntegrationStatusReport {
	r := guestproto.IntegrationStatusReport{Integrations: []guestproto.IntegrationState{}}
	if g.Config == nil {
		return &r
	}
	for _, i := range g.Config.Integrations {
		s := guestproto.IntegrationState{Name: i.Name, Status: json.RawMessage(`"pending"`)}
		if known, ok := g.Saved[i.Name]; ok {
			s.Status = json.RawMessage(known.Status)
			if !known.At.IsZero() {
				s.LastCheckpointAt = &known.At
			}
		}
		r.Integrations = append(r.Integrations, s)
	}
	r.Integrations = append(r.Integrations, g.held(b)...)
	return &r
}

// checkpoint succeeds unless the behaviour says that one of the names fails.
func (g *guestState) checkpoint(names []string, b Behavior) *guestproto.CheckpointResult {
	r := guestproto.CheckpointResult{Success: true, Failed: []string{}}
	for _, n := range names {
		if slices.Contains(b.FailedSaves, n) {
			detail := "checkpoint of " + n + " failed"
			r.Success, r.Detail, r.Failed = false, &detail, append(r.Failed, n)
			g.save(n, `{"error":"checkpoint failed"}`, time.Time{})
		} else {
			g.save(n, `"paused"`, g.now())
		}
	}
	return &r
}

func (g *guestState) save(name, status string, at time.Time) {
	if g.Saved == nil {
		g.Saved = map[string]saved{}
	}
	if at.IsZero() {
		at = g.Saved[name].At
	}
	g.Saved[name] = saved{status, at}
}

// wake restores every integration.
func (g *guestState) wake(b Behavior) *guestproto.WakeAck {
	if g.Config != nil {
		for _, i := range g.Config.Integrations {
			if b.NackWake {
				g.save(i.Name, `{"error":"restore failed"}`, time.Time{})
			} else {
				g.save(i.Name, `"active"`, time.Time{})
			}
		}
	}
	return &guestproto.WakeAck{Success: !b.NackWake}
}
