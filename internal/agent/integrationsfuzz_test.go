package agent_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"mvm"
	"mvm/internal/agent"
	"mvm/internal/guestproto"
)

// FuzzIntegrationStates: whatever a guest says of its integrations, what is kept is
// bounded, of known forms, and of the integrations that there are.
func FuzzIntegrationStates(f *testing.F) {
	for _, s := range []string{
		`{"IntegrationStatusReport":{"integrations":[{"name":"telegram","status":"active","last_checkpoint_at":"2026-02-11T10:00:00Z","state_size_bytes":5}]}}`,
		`{"IntegrationStatusReport":{"integrations":[{"name":"telegram","status":{"error":"no"},"state_size_bytes":-1},{"name":"app","status":"paused","image":true}]}}`,
		`{"IntegrationStatusReport":{"integrations":[{"name":"../x","status":"paused","image":true},{"name":"ghost","status":[1]}]}}`,
		`{"IntegrationStatusReport":{"integrations":[{"name":"telegram","status":"\xff"}]}}`,
		`{"IntegrationStatusReport":{"integrations":[{"name":"telegram","status":{"error":"x` + strings.Repeat("é", 400) + `"}}]}}`,
	} {
		f.Add([]byte(s))
	}
	list := []mvm.Integration{{Name: "telegram", Critical: true}, {Name: "cache"}}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r guestproto.Response
		if guestproto.Decode(b, &r) != nil || r.IntegrationStatusReport == nil {
			return
		}
		got := agent.StatesOf(list, r.IntegrationStatusReport.Integrations)
		if len(got) < len(list) || len(got) > len(list)+8 || got[0].Name != "telegram" || got[1].Name != "cache" {
			t.Fatalf("kept %+v", got)
		}
		for _, s := range got {
			known := s.Status == mvm.IntegrationActive || s.Status == mvm.IntegrationPaused || s.Status == mvm.IntegrationPending || s.Status == mvm.IntegrationError
			if !known || (s.Error != "") != (s.Status == mvm.IntegrationError) || len(s.Error) > 320 || s.StateBytes < 0 {
				t.Errorf("kept %+v", s)
			}
			if mvm.ValidateName("integration", s.Name) != nil || !utf8.ValidString(s.Error) {
				t.Errorf("kept %+v", s)
			}
		}
	})
}
