package agent

import (
	"time"

	"mvm/internal/wait"
)

// keepEvery is how often the kernel's networks are looked at while nothing changes.
const keepEvery = 5 * time.Second

// keepNetworks repairs what others did to the host's networks, publishes what could not be
// before, gives VMMs the limits that they could not get and follows the host's resolvers, for as long as the agent runs.
func (a *Agent) keepNetworks() {
	wait.Every(a.ctx, keepEvery, func() {
		a.deliver.FollowResolvers(a.ctx)
		if err := a.networks.Look(a.ctx); err != nil && a.ctx.Err() == nil {
			a.log.Error("keep networks", "error", err)
		}
		a.ingress.RetryPublish()
		a.live.RetryLimits(a.ctx)
	})
}
