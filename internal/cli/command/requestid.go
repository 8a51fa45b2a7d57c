package command

import (
	"context"

	"mvm"
	"mvm/internal/api"
)

// Identified gives what the user asks for an id, by which the logs of agent and guests
// have it.
func (a *App) Identified(ctx context.Context) context.Context {
	id := api.NewRequestID()
	if a.verbose {
		a.Say("request %s", id)
	}
	return mvm.WithRequest(ctx, id)
}
