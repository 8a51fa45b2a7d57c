// Package mailbox asks gateways what messages of chats they keep, and has them try one again
// or give it up. What a gateway says is a hostile guest's word: it is bounded, and only its
// form is believed.
package mailbox

import (
	"context"
	"strconv"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/guestproto"
)

// Guests are the gateways.
type Guests interface {
	Pools(ctx context.Context, tenant string) ([]mvm.Pool, error)
	Pool(ctx context.Context, tenant, pool string) (mvm.Pool, error)
	Instances(ctx context.Context, filter mvm.Address) ([]mvm.Instance, error)
	Ask(ctx context.Context, id string, req guestproto.Request) (guestproto.Response, error)
}

// Journal is the audit log.
type Journal interface{ Record(e mvm.Event) }

// Box asks. Its methods may be called concurrently.
type Box struct {
	Guests  Guests
	Journal Journal
}

// maxPages bounds the answers of one gateway to one list.
const maxPages = 200

// maxParts bounds the parts in which a message is told.
const maxParts = mvm.MaxMessageBytes/guestproto.MaxInboxBody + 1

// List lists the messages that the tenant's gateways keep, by pool and number.
func (b *Box) List(ctx context.Context, tenant string) ([]mvm.Message, error) {
	pools, err := b.Guests.Pools(ctx, tenant)
	if err != nil {
		return nil, err
	}
	var out []mvm.Message
	for _, p := range pools {
		if !p.Spec.Keeps() {
			continue
		}
		i, err := b.gateway(ctx, p)
		if err != nil {
			return nil, err
		}
		last := int64(0)
		for page, more := 0, true; more && page < maxPages; page++ {
			r, err := b.ask(ctx, i, guestproto.Inbox{Do: guestproto.InboxList, Number: last})
			if err != nil {
				return nil, err
			}
			more = false
			for _, e := range r.Entries[:min(len(r.Entries), guestproto.MaxInboxEntries)] {
				if e.Number > last {
					last, more = e.Number, r.More
					out = append(out, message(i, e))
				}
			}
		}
	}
	return out, nil
}

// Show returns a message with its body. That somebody saw it is on record.
func (b *Box) Show(ctx context.Context, tenant, pool string, number int64) (mvm.Message, error) {
	i, err := b.of(ctx, tenant, pool)
	if err != nil {
		return mvm.Message{}, err
	}
	var m mvm.Message
	var body []byte
	for parts := 0; parts == 0 || len(body) < m.Size; parts++ {
		r, err := b.ask(ctx, i, guestproto.Inbox{Do: guestproto.InboxShow, Number: number, Offset: len(body)})
		if err != nil {
			return mvm.Message{}, err
		}
		if parts > maxParts || len(r.Entries) != 1 || r.Entries[0].Number != number || r.Entries[0].Size > mvm.MaxMessageBytes || len(r.Body) == 0 && r.Entries[0].Size > len(body) {
			return mvm.Message{}, mvm.Errorf(mvm.KindInternal, "show message %d of %s: unexpected answer", number, i.Address())
		}
		m = message(i, r.Entries[0])
		body = append(body, r.Body[:min(len(r.Body), guestproto.MaxInboxBody)]...)
	}
	m.Body = body[:min(len(body), mvm.MaxMessageBytes)]
	b.record(ctx, mvm.MessageRead, i, m)
	return m, nil
}

// Retry has a message tried again at once.
func (b *Box) Retry(ctx context.Context, tenant, pool string, number int64) error {
	return b.change(ctx, tenant, pool, number, guestproto.InboxRetry, mvm.MessageRetried)
}

// Drop gives a message up.
func (b *Box) Drop(ctx context.Context, tenant, pool string, number int64) error {
	return b.change(ctx, tenant, pool, number, guestproto.InboxDrop, mvm.MessageDropped)
}

func (b *Box) change(ctx context.Context, tenant, pool string, number int64, do string, act mvm.Action) error {
	i, err := b.of(ctx, tenant, pool)
	if err != nil {
		return err
	}
	if _, err = b.ask(ctx, i, guestproto.Inbox{Do: do, Number: number}); err != nil {
		return err
	}
	b.record(ctx, act, i, mvm.Message{Number: number})
	return nil
}

func (b *Box) record(ctx context.Context, act mvm.Action, i mvm.Instance, m mvm.Message) {
	why := "message " + strconv.FormatInt(m.Number, 10)
	if m.Channel != "" {
		why += " of channel " + m.Channel
	}
	b.Journal.Record(mvm.Event{Time: time.Now(), Action: act, Tenant: i.Tenant, Pool: i.Pool, Instance: i.ID, By: mvm.AskerFrom(ctx), Request: mvm.RequestFrom(ctx), Detail: why})
}

// of is the gateway of the pool, which keeps messages.
func (b *Box) of(ctx context.Context, tenant, pool string) (mvm.Instance, error) {
	p, err := b.Guests.Pool(ctx, tenant, pool)
	if err == nil && !p.Spec.Keeps() {
		err = mvm.Errorf(mvm.KindNotFound, "pool %s has no channel that keeps messages", p.Address())
	}
	if err != nil {
		return mvm.Instance{}, err
	}
	return b.gateway(ctx, p)
}

func (b *Box) gateway(ctx context.Context, p mvm.Pool) (mvm.Instance, error) {
	all, err := b.Guests.Instances(ctx, p.Address())
	if err != nil {
		return mvm.Instance{}, err
	}
	for _, i := range all {
		if i.State == mvm.StateRunning {
			return i, nil
		}
	}
	if len(all) == 0 {
		return mvm.Instance{}, mvm.Errorf(mvm.KindState, "pool %s has no gateway, which keeps the messages", p.Address()).WithFix("wait until it is made, or see why with: mvm ps %s", p.Tenant)
	}
	return mvm.Instance{}, mvm.Errorf(mvm.KindState, "gateway %s is %s; its messages are on its disk", all[0].Address(), all[0].State).
		WithFix("run `mvm instance start %s` first", all[0].ID)
}

// ask asks the gateway once.
func (b *Box) ask(ctx context.Context, i mvm.Instance, q guestproto.Inbox) (guestproto.InboxReport, error) {
	resp, err := b.Guests.Ask(ctx, i.ID, guestproto.Request{Inbox: &q})
	if err != nil {
		return guestproto.InboxReport{}, err
	}
	r := resp.InboxReport
	switch {
	case r == nil:
		return guestproto.InboxReport{}, mvm.Errorf(mvm.KindInternal, "ask %s for its inbox: unexpected answer", i.Address())
	case r.NotFound:
		return *r, mvm.Errorf(mvm.KindNotFound, "%s has no message %d; it may be delivered", i.Address(), q.Number)
	case r.Problem != "":
		return *r, mvm.Errorf(mvm.KindUnavailable, "%s: %s", i.Address(), display.Clip(r.Problem))
	}
	return *r, nil
}

// maxID bounds ids, which the guest bounds too.
const maxID = 256

// message makes of a guest's word what is told of it.
func message(i mvm.Instance, e guestproto.InboxEntry) mvm.Message {
	return mvm.Message{Tenant: i.Tenant, Pool: i.Pool, Number: e.Number, Channel: display.ClipTo(64, e.Channel), ID: display.ClipTo(maxID, e.ID),
		Chat: display.ClipTo(16, e.Chat), Sender: display.ClipTo(maxID, e.Sender), Size: min(max(e.Size, 0), mvm.MaxMessageBytes), Received: e.Received,
		Refusals: max(e.Refusals, 0), Errors: max(e.Errors, 0), Why: display.Clip(e.Why), SetAside: e.Aside, Changed: e.Changed}
}
