package cli

import (
	"fmt"

	"mvm"
)

// integrationText tells how an integration is, for people.
func (a *app) integrationText(s mvm.IntegrationState) string {
	text := s.Status
	if s.Error != "" {
		text += ": " + s.Error
	}
	if !s.LastCheckpointAt.IsZero() {
		text += fmt.Sprintf(", checkpointed %s ago", a.ago(s.LastCheckpointAt))
	}
	if s.StateBytes > 0 {
		text += ", " + size(s.StateBytes)
	}
	if s.Critical {
		text += ", critical"
	}
	return text
}
