package cli

import (
	"context"

	"mvm"
	"mvm/internal/api"
)

// identified gives what the user asks for an id, by which the logs of agent and guests
// have it.
func (a *app) identified(ctx context.Context) context.Context {
	id := api.NewRequestID()
	if a.verbose {
		a.say("request %s", id)
	}
	return mvm.WithRequest(ctx, id)
}
