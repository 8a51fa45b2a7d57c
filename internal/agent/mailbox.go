package agent

import (
	"context"
	"time"

	"mvm"
	"mvm/internal/channelcheck"
	"mvm/internal/guestproto"
	"mvm/internal/mailbox"
)

// mailboxOf is what the mailbox, and who checks channels, ask of the agent.
type mailboxOf struct{ *Agent }

var (
	_ mailbox.Guests      = mailboxOf{}
	_ channelcheck.Guests = mailboxOf{}
)

// Ask implements mailbox.Guests.
func (o mailboxOf) Ask(ctx context.Context, id string, req guestproto.Request) (guestproto.Response, error) {
	return o.live.Ask(ctx, id, req)
}

func (a *Agent) mailbox() *mailbox.Box { return &mailbox.Box{Guests: mailboxOf{a}, Journal: a.journal} }

// DoctorTenant implements api.Service.
func (a *Agent) DoctorTenant(ctx context.Context, tenant string) ([]mvm.Finding, error) {
	return channelcheck.Tenant(ctx, mailboxOf{a}, tenant, time.Now())
}

// Messages implements api.Service.
func (a *Agent) Messages(ctx context.Context, tenant string) ([]mvm.Message, error) {
	return a.mailbox().List(ctx, tenant)
}

// Message implements api.Service.
func (a *Agent) Message(ctx context.Context, tenant, pool string, number int64) (mvm.Message, error) {
	return a.mailbox().Show(ctx, tenant, pool, number)
}

// RetryMessage implements api.Service.
func (a *Agent) RetryMessage(ctx context.Context, tenant, pool string, number int64) error {
	return a.mailbox().Retry(ctx, tenant, pool, number)
}

// DropMessage implements api.Service.
func (a *Agent) DropMessage(ctx context.Context, tenant, pool string, number int64) error {
	return a.mailbox().Drop(ctx, tenant, pool, number)
}
