package fake

import (
	"encoding/json"
	"slices"

	"mvm/internal/guestproto"
)

// integrations reports every configured integration as active.
func (g *guestState) integrations() *guestproto.IntegrationStatusReport {
	r := guestproto.IntegrationStatusReport{Integrations: []guestproto.IntegrationState{}}
	if g.Config == nil {
		return &r
	}
	for _, i := range g.Config.Integrations {
		r.Integrations = append(r.Integrations, guestproto.IntegrationState{Name: i.Name, Status: json.RawMessage(`"active"`)})
	}
	return &r
}

// checkpoint succeeds unless the behaviour says that one of the names fails.
func checkpoint(names []string, b Behavior) *guestproto.CheckpointResult {
	r := guestproto.CheckpointResult{Success: true, Failed: []string{}}
	for _, n := range names {
		if slices.Contains(b.FailedSaves, n) {
			detail := "checkpoint of " + n + " failed"
			r.Success, r.Detail, r.Failed = false, &detail, append(r.Failed, n)
		}
	}
	return &r
}
