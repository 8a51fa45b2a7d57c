package agent

import (
	"context"

	"mvm"
)

// Events implements api.Service.
func (a *Agent) Events(ctx context.Context, f mvm.EventFilter, each func(mvm.Event) error) error {
	return a.journal.Events(ctx, f, each)
}

// VerifyEvents implements api.Service.
func (a *Agent) VerifyEvents(ctx context.Context, expect string) (mvm.AuditReport, error) {
	return a.journal.Verify(ctx, expect)
}
