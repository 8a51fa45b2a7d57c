package agent

import (
	"context"
	"time"

	"mvm"

	"mvm/internal/deliver"
	"mvm/internal/guestproto"
	"mvm/internal/wait"
)

// deliverEvery is how often guests that did not take a change are tried again.
const deliverEvery = 5 * time.Second

// keepDelivered tries the guests again that did not take a change, and asks gateways that
// may have missed the end of an instance, for as long as the agent runs.
func (a *Agent) keepDelivered() {
	a.ingress.DoubtPeers()
	retry := func() {
		a.ingress.RetryPeers()
		a.deliver.Retry(a.ctx)
	}
	retry()
	wait.Every(a.ctx, deliverEvery, retry)
}

// guests are the guests of the host, as its parts ask for them.
type guests struct{ a *Agent }

var (
	_ deliver.Guests  = guests{}
	_ deliver.Secrets = guests{}
)

// HasVMM implements deliver.Guests.
func (g guests) HasVMM(id string) bool { return g.a.live.Of(id) != nil }

// Ask implements deliver.Guests.
func (g guests) Ask(ctx context.Context, id string, req guestproto.Request) (guestproto.Response, error) {
	return g.a.live.Ask(ctx, id, req)
}

// Told implements deliver.Guests.
func (g guests) Told(id string) { g.a.lifecycle.NoteTold(id) }

// OpenSecrets implements deliver.Secrets.
func (g guests) OpenSecrets(t mvm.Tenant, sealed []byte) (map[string][]byte, error) {
	return g.a.fleet.OpenSecrets(t, sealed)
}

// ChannelKey implements deliver.Secrets.
func (g guests) ChannelKey(tenant, pool, channel string) ([]byte, error) {
	return g.a.opt.Sealer.ChannelKey(tenant, pool, channel)
}
