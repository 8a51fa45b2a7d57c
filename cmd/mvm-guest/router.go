package main

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"

	"mvm"
	"mvm/internal/guest"
	"mvm/internal/guest/chat"
	"mvm/internal/guest/chat/discord"
	"mvm/internal/guest/chat/hook"
	"mvm/internal/guest/chat/telegram"
	"mvm/internal/guest/gateway"
	"mvm/internal/guest/linux"
	"mvm/internal/guestproto"
)

// router is the gateway role: routes and channels.
type router struct {
	*gateway.Router
	chats   *chat.Set
	shelf   *hook.Shelf
	changed atomic.Pointer[func()] // tells that the channels' status is another
}

func newRouter(log *slog.Logger, host guest.Host, data string) *router {
	r := &router{Router: gateway.New(gateway.Options{Log: log, Host: gateway.HostOver(host), Begin: beginGateway}),
		shelf: &hook.Shelf{Path: filepath.Join(data, "mvm", "inbox.db"), Ready: func() error { return linux.Outlasts(data) }, Log: log}}
	post := hook.Opener(r.shelf)
	r.chats = chat.NewSet(chat.Options{Log: log, Workers: workers{r.Router, host}, Host: host,
		Open: map[mvm.ChannelKind]func(chat.AdapterOptions) chat.Adapter{mvm.ChannelTelegram: r.openTelegram, mvm.ChannelDiscord: discord.Opener(r.shelf),
			mvm.ChannelSlack: post, mvm.ChannelWhatsApp: post, mvm.ChannelLine: post, mvm.ChannelHook: post},
		Changed: func() {
			if tell := r.changed.Load(); tell != nil {
				(*tell)()
			}
		}})
	return r
}

// openTelegram opens a bot, with what the data disk has of it, if there is one.
func (r *router) openTelegram(opt chat.AdapterOptions) chat.Adapter {
	opt.Disk = r.shelf.Disk(opt)
	return telegram.Open(opt)
}

// beginGateway fits the process to a machine that is a gateway.
func beginGateway() error { return errors.Join(linux.CoarseTimers(), linux.LimitMemory()) }

// Configure implements guest.Router.
func (r *router) Configure(c guestproto.Configure) error {
	if err := r.Router.Configure(c); err != nil {
		return err
	}
	return r.chats.Configure(c)
}

// Active implements guest.Router.
func (r *router) Active() int { return r.Router.Active() + r.chats.Waiting() }

// Close implements guest.Router.
func (r *router) Close() error {
	return errors.Join(r.chats.Close(), r.shelf.Close(), r.Router.Close())
}

// workers are the instances to which the channels lead: the router has them awake, and the
// host asks their guests.
type workers struct {
	router *gateway.Router
	host   guest.Host
}

// Reach implements chat.Workers.
func (w workers) Reach(ctx context.Context, channel, pool, key string) (chat.Lease, error) {
	return w.router.Reach(ctx, channel, pool, key)
}

// Preflight implements chat.Workers.
func (w workers) Preflight(ctx context.Context, pool, instance string) (guestproto.PreflightAck, error) {
	resp, err := w.host.Call(ctx, guestproto.HostRequest{Preflight: &guestproto.InstanceName{PoolID: pool, InstanceID: instance}})
	if err != nil || resp.PreflightAck == nil {
		return guestproto.PreflightAck{}, errors.Join(err, noAnswer(resp.PreflightAck == nil))
	}
	return *resp.PreflightAck, nil
}

// State implements chat.Workers.
func (w workers) State(ctx context.Context, pool, instance string) (mvm.State, int, error) {
	resp, err := w.host.Call(ctx, guestproto.HostRequest{QueryInstanceStatus: &guestproto.InstanceName{PoolID: pool, InstanceID: instance}})
	var refused *guestproto.RemoteError
	switch st := resp.InstanceStatus; {
	case errors.As(err, &refused) && strings.Contains(refused.Message, guestproto.NotThere):
		return mvm.StateDestroyed, 0, nil
	case err != nil || st == nil:
		return "", 0, errors.Join(err, noAnswer(st == nil))
	default:
		return st.Status, st.Boot, nil
	}
}

// Sync implements chat.Workers.
func (w workers) Sync(ctx context.Context, pool, instance string, boot int) error {
	resp, err := w.host.Call(ctx, guestproto.HostRequest{SyncInstance: &guestproto.SyncInstance{Boot: boot,
		InstanceName: guestproto.InstanceName{PoolID: pool, InstanceID: instance}}})
	switch ack := resp.SyncAck; {
	case err != nil || ack == nil:
		return errors.Join(err, noAnswer(ack == nil))
	case ack.Success:
		return nil
	case ack.Detail != nil && strings.Contains(*ack.Detail, guestproto.NoVariant):
		return nil // its guest agent is of an older mvm and can't: it keeps the message all the same
	case ack.Detail != nil:
		return errors.New(*ack.Detail)
	}
	return errors.New("the host could not sync the instance")
}

func noAnswer(none bool) error {
	if none {
		return errors.New("the host gave no answer of use")
	}
	return nil
}
