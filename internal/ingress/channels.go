package ingress

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/guestproto"
)

// reach is what a gateway may ask for: what its pool's routes and channels lead to.
type reach struct {
	mvm.RoutingTable
	channels []mvm.Channel
}

// Name reports whether some route or channel leads to the pool.
func (r reach) Name(pool string) bool { return r.RoutingTable.Name(pool) || r.chats(pool) }

// chats reports whether some channel leads to the pool.
func (r reach) chats(pool string) bool {
	return slices.ContainsFunc(r.channels, func(c mvm.Channel) bool { return c.To.PoolID == pool })
}

// LeadTo reports whether some route may lead to this instance of the pool, or the channel
// in whose name it is asked for.
func (r reach) LeadTo(pool, key string, ip netip.Addr, channel string) bool {
	if channel == "" {
		return r.RoutingTable.LeadTo(pool, key, ip)
	}
	c, ok := r.channel(channel)
	return ok && !ip.IsValid() && c.LeadTo(pool, key)
}

func (r reach) channel(name string) (mvm.Channel, bool) {
	n := slices.IndexFunc(r.channels, func(c mvm.Channel) bool { return c.Name == name })
	if n < 0 {
		return mvm.Channel{}, false
	}
	return r.channels[n], true
}

// preflight asks the guest of an instance whether it may get a message now.
func (h *Listener) preflight(ctx context.Context, n guestproto.InstanceName) guestproto.HostResponse {
	resp, err := h.askGuest(ctx, n, guestproto.Request{Preflight: true})
	switch {
	case lacks(err): // of an older mvm: it has nothing that holds still without saying so
		return guestproto.HostResponse{PreflightAck: &guestproto.PreflightAck{Safe: true, Reason: "the guest agent is of an older mvm"}}
	case err == nil && resp.PreflightAck == nil:
		err = mvm.Errorf(mvm.KindInternal, "ask instance %s before a message: unexpected answer", n.InstanceID)
	}
	if err != nil {
		return refuse("%s", forGuest(err))
	}
	ack := *resp.PreflightAck
	ack.Reason = display.Clip(ack.Reason)
	return guestproto.HostResponse{PreflightAck: &ack}
}

// sync has what the workload of an instance has written made durable.
func (h *Listener) sync(ctx context.Context, n guestproto.SyncInstance) guestproto.HostResponse {
	resp, err := h.askGuest(ctx, n.InstanceName, guestproto.Request{Sync: true})
	if i, findErr := h.find(n.InstanceName); err == nil && (findErr != nil || i.DiskGeneration != n.Boot) {
		err = mvm.Errorf(mvm.KindState, "sync instance %s: it has booted anew", n.InstanceID)
	}
	switch {
	case err != nil:
	case resp.SyncAck == nil:
		err = mvm.Errorf(mvm.KindInternal, "sync instance %s: unexpected answer", n.InstanceID)
	case !resp.SyncAck.Success:
		err = mvm.Errorf(mvm.KindUnavailable, "sync instance %s: %s", n.InstanceID, display.Clip(detailOf(resp.SyncAck)))
	}
	return guestproto.HostResponse{SyncAck: h.in.ack(err)}
}

func detailOf(a *guestproto.Ack) string {
	if a.Detail == nil {
		return "no reason given"
	}
	return *a.Detail
}

// lacks reports that the guest agent does not know the request.
func lacks(err error) bool { return err != nil && strings.Contains(err.Error(), guestproto.NoVariant) }

func (h *Listener) askGuest(ctx context.Context, n guestproto.InstanceName, req guestproto.Request) (guestproto.Response, error) {
	i, err := h.find(n)
	if err != nil {
		return guestproto.Response{}, err
	}
	if i.State != mvm.StateRunning {
		return guestproto.Response{}, mvm.Errorf(mvm.KindState, "instance %s is %s", i.ID, i.State)
	}
	ctx, cancel := context.WithTimeout(ctx, h.in.opt.Call)
	defer cancel()
	return h.in.opt.Instances.Ask(ctx, i.ID, req)
}

// messages records what a gateway says became of messages. Its words are bounded, and only
// their form is believed.
func (h *Listener) messages(r reach, rep guestproto.ReportMessages) guestproto.HostResponse {
	channel, ok := r.channel(rep.Channel)
	if !ok {
		return refuse("its pool has no channel %q", display.Clip(rep.Channel))
	}
	actions := map[string]mvm.Action{guestproto.MessageAccepted: mvm.MessageAccepted,
		guestproto.MessageRefused: mvm.MessageRefused, guestproto.MessageSetAside: mvm.MessageSetAside,
		guestproto.ReplyInterrupted: mvm.ReplyInterrupted}
	for _, m := range rep.Messages[:min(len(rep.Messages), guestproto.MaxMessages)] {
		act, ok := actions[m.What]
		if !ok {
			continue
		}
		e := mvm.Event{Time: time.Now(), Action: act, Tenant: h.tenant, Pool: h.pool, Instance: h.id,
			By: mvm.Asker{Kind: mvm.AskerChannel, ID: rep.Channel}, Why: "message " + strconv.FormatInt(m.ID, 10),
			Detail: messageText(m), Request: rep.RequestID}
		if i, err := h.findID(m.InstanceID); err == nil && r.chats(i.Pool) {
			e.Pool, e.Instance = i.Pool, i.ID
		}
		h.in.opt.Journal.Record(e)
		h.in.opt.Metrics.Messages(channel.Kind, m.What, min(max(m.Count, 1), maxLike))
	}
	return guestproto.HostResponse{MessagesAck: true}
}

// maxLike bounds the messages for which a guest's one report counts.
const maxLike = 10_000

// messageText says of a message what is not in the event's other fields.
func messageText(m guestproto.MessageEvent) string {
	text := display.Clip(m.Detail)
	if m.Chat != "" {
		text = strings.TrimSpace("chat " + display.ClipTo(16, m.Chat) + " " + text)
	}
	if m.Count > 1 {
		text += fmt.Sprintf(" (%d messages)", m.Count)
	}
	return text
}
