package channelcheck_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/channelcheck"
	"mvm/internal/guest/chat"
	"mvm/internal/guest/chat/hook"
	"mvm/internal/guest/chat/posted"
	"mvm/internal/guest/chat/telegram"
	"mvm/internal/guestproto"
	"mvm/internal/testenv"
	"mvm/test/botapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "123456789:AAsecretsecretsecretsecretsecret"

// house is a tenant with a bot, whose gateway is the real one but for its VM.
type house struct {
	t      *testing.T
	api    *botapi.Server
	set    *chat.Set
	hook   chat.Adapter
	now    time.Time
	tenant mvm.Tenant
	pools  []mvm.Pool
	all    []mvm.Instance
	answer func(context.Context) (guestproto.Response, error) // nil: the gateway's
}

func (h *house) Tenant(_ context.Context, id string) (mvm.Tenant, mvm.Usage, error) {
	if id != "alice" {
		return mvm.Tenant{}, mvm.Usage{}, mvm.Errorf(mvm.KindNotFound, "no tenant %s", id)
	}
	return h.tenant, mvm.Usage{}, nil
}
func (h *house) Pools(context.Context, string) ([]mvm.Pool, error) { return h.pools, nil }
func (h *house) Instances(context.Context, mvm.Address) ([]mvm.Instance, error) {
	return h.all, nil
}
func (h *house) Ask(ctx context.Context, id string, r guestproto.Request) (guestproto.Response, error) {
	if id != "i-00000001" || !r.CheckChannels {
		h.t.Errorf("%s was asked %+v", id, r)
	}
	if h.answer != nil {
		return h.answer(ctx)
	}
	c := h.set.Check(ctx)
	return guestproto.Response{ChannelChecks: &c}, nil
}

// down are workers that can't be reached, and a host that takes reports.
type down struct{}

func (down) Reach(context.Context, string, string, string) (chat.Lease, error) {
	return nil, mvm.Errorf(mvm.KindUnavailable, "no room for it")
}
func (down) Preflight(context.Context, string, string) (guestproto.PreflightAck, error) {
	return guestproto.PreflightAck{}, nil
}
func (down) State(context.Context, string, string) (mvm.State, int, error) {
	return mvm.StateRunning, 1, nil
}

func (down) Sync(context.Context, string, string, int) error { return nil }
func (down) Call(context.Context, guestproto.HostRequest) (guestproto.HostResponse, error) {
	return guestproto.HostResponse{MessagesAck: true}, nil
}

// channel is the bot, and support the channel that keeps its messages.
func (h *house) channel() *mvm.Channel { return &h.pools[0].Spec.Channels[0] }
func (h *house) support() *mvm.Channel { return &h.pools[0].Spec.Channels[1] }

func newHouse(t *testing.T) *house {
	h := &house{t: t, api: botapi.New(token, nil), now: time.Now()}
	server := httptest.NewServer(h.api)
	transport := &http.Transport{}
	to := mvm.ChannelTarget{PoolID: "workers", TargetPort: 8787, Path: "/hook", Selector: mvm.ChannelSelector{From: "chat"}}
	h.tenant = mvm.Tenant{ID: "alice", SecretNames: []string{"telegram_token", "signing"}}
	h.pools = []mvm.Pool{{Tenant: "alice", Bound: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:8443")}, Spec: mvm.PoolSpec{ID: "gateways", Role: mvm.RoleGateway,
		Publish: []mvm.Publish{{Host: netip.MustParseAddrPort("127.0.0.1:8443"), Guest: 8443}},
		Channels: []mvm.Channel{
			{Name: "bot", Kind: mvm.ChannelTelegram, Secret: "telegram_token", Allow: []string{"-100", "7"}, APIRoot: server.URL, To: to},
			{Name: "support", Kind: mvm.ChannelHook, Mode: mvm.ChannelWebhook, Secret: "signing", Allow: []string{"a"}, Port: 8443, ChatFrom: "json:/chat", SenderFrom: "json:/from", To: to},
		}}}, {Tenant: "alice", Spec: mvm.PoolSpec{ID: "workers"}}}
	h.all = []mvm.Instance{{ID: "i-00000001", Tenant: "alice", Pool: "gateways", State: mvm.StateRunning},
		{ID: "i-00000002", Tenant: "alice", Pool: "workers", State: mvm.StateSleeping, NextWake: h.now.Add(time.Hour)}}
	shelf := &hook.Shelf{Path: filepath.Join(t.TempDir(), "inbox.db"), Ready: func() error { return nil }, Log: slog.New(slog.DiscardHandler)}
	h.set = chat.NewSet(chat.Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Workers: down{}, Host: down{}, HTTP: &http.Client{Transport: transport},
		Open: map[mvm.ChannelKind]func(chat.AdapterOptions) chat.Adapter{mvm.ChannelTelegram: telegram.Open, mvm.ChannelHook: func(o chat.AdapterOptions) chat.Adapter {
			h.hook = hook.Opener(shelf)(o)
			return h.hook
		}},
		Listen: func(ctx context.Context, _, _ string) (net.Listener, error) {
			return (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		}})
	t.Cleanup(func() {
		h.api.Close()
		if err := errors.Join(h.set.Close(), shelf.Close()); err != nil {
			t.Error(err)
		}
		server.Close()
		transport.CloseIdleConnections()
	})
	return h
}

// open puts the channels in force, with the token, and waits until they have begun.
func (h *house) open(token string) *house {
	h.t.Helper()
	err := h.set.Configure(guestproto.Configure{Channels: []guestproto.Channel{{Channel: *h.channel(), Token: []byte(token), Key: []byte("k")},
		{Channel: *h.support(), Token: []byte("hush"), Key: []byte("k")}}})
	if err != nil {
		h.t.Fatal(err)
	}
	h.until(func() bool {
		return !slices.ContainsFunc(h.set.Status(), func(c guestproto.ChannelStatus) bool { return c.State == chat.StateStarting })
	})
	return h
}

func (h *house) until(ok func() bool) {
	h.t.Helper()
	testenv.Eventually(h.t, 30*time.Second, func() error {
		if !ok() {
			return fmt.Errorf("status %+v", h.set.Status())
		}
		return nil
	})
}

// found are the findings, one a line.
func (h *house) found() string {
	h.t.Helper()
	all, err := channelcheck.Tenant(h.t.Context(), h, "alice", h.now)
	if err != nil {
		h.t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range all {
		if f.Severity != "ok" && f.Fix == "" {
			h.t.Errorf("no fix: %+v", f)
		}
		fmt.Fprintf(&b, "%s: %s @ %s (%s)\n", f.Severity, f.What, f.Where, f.Fix)
	}
	if strings.Contains(b.String(), strings.Split(token, ":")[1]) || strings.Contains(b.String(), "hush") {
		h.t.Errorf("a secret is told:\n%s", b.String())
	}
	return b.String()
}

// want looks for texts, of which one with "!" before it must not be there.
func (h *house) want(texts ...string) {
	h.t.Helper()
	got := h.found()
	for _, text := range texts {
		text, not := strings.CutPrefix(text, "!")
		if strings.Contains(got, text) == not {
			h.t.Errorf("there or not there: %q\n%s", text, got)
		}
	}
}

// TestAllIsWell: a bot that works, a channel with an empty inbox, and the next wake.
func TestAllIsWell(t *testing.T) {
	h := newHouse(t).open(token)
	h.want("ok: telegram @standin_bot is ready", "ok: the token is valid; telegram answered the gateway in ", "ok: 2 ids in allow; the owner is 7 @ alice/gateways channel bot",
		"ok: messages arrive at 127.0.0.1:8443 @ alice/gateways channel support", "ok: 0 messages in the inbox",
		"ok: next wake: "+h.now.Add(time.Hour).Local().Format(time.DateTime)+" @ alice/workers/i-00000002", "!warning", "!error")
	if n := len(h.api.Calls("getUpdates")); n > 2 { // one at the start, and one that waits
		t.Errorf("polling was disturbed: %d calls", n)
	}
}

// TestRecords: what is wrong without asking anybody.
func TestRecords(t *testing.T) {
	h := newHouse(t).open(token)
	h.tenant.SecretNames = []string{"signing"}
	h.channel().Allow = []string{"-100"}
	h.support().Allow = []string{"*"}
	h.pools[0].Spec.Publish = nil
	h.all[1].NextWake = h.now.Add(-2 * time.Minute)
	h.all[1].Problem = "its disk is full"
	h.want("error: the tenant has no secret telegram_token @ alice/gateways channel bot (mvm tenant secrets set alice telegram_token=@FILE)",
		"error: allow lists groups only and no person", "warning: everybody may write", "error: port 8443 of the gateway is not published",
		", which is over @ alice/workers/i-00000002", "warning: its disk is full")
	h.pools[1].Spec.ID = "others"
	h.want("error: the tenant has no pool workers")
	h.pools[0].Spec.Publish, h.pools[0].Bound, h.pools[0].Unpublished = []mvm.Publish{{Guest: 8443}}, nil, "address in use"
	h.want("is not published: address in use")
	h.pools = h.pools[1:]
	h.want("ok: the tenant has no channels @ alice")
	if _, err := channelcheck.Tenant(t.Context(), h, "bob", h.now); !mvm.IsKind(err, mvm.KindNotFound) {
		t.Errorf("another tenant: %v", err)
	}
}

// TestPlatform: a token that is refused, a platform that is down, and one that limits.
func TestPlatform(t *testing.T) {
	h := newHouse(t).open(token)
	h.api.SetDown(true)
	h.want("error: the gateway can't reach the platform: ", "check the firewall")
	h.api.SetDown(false)
	h.api.Fail(botapi.Fault{Method: "getme", Times: 1, Status: 429, RetryAfter: 30, Text: "Too Many Requests"})
	h.want("warning: the platform limits requests: Telegram asks to wait for 30s")
	h.api.SetToken("123456789:another")
	h.want("error: the token is not valid: Telegram refuses the token", "!token is valid", "mvm tenant secrets set alice telegram_token=@FILE")
	h.want("!" + "AAsecret")
}

// TestReceivers: a webhook that another program has set, whose address may have the token, and
// another program that polls.
func TestReceivers(t *testing.T) {
	h := newHouse(t).open(token)
	h.api.Fail(botapi.Fault{Method: "deletewebhook", Times: 1000, Status: 500, Text: "Internal"}) // or the gateway removes it
	h.api.SetWebhook("https://elsewhere.example.org/bot"+token, "s")
	h.want("error: a webhook is set at the platform, to https://elsewhere.example.org/… ")

	h = newHouse(t).open(token)
	other := make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		defer close(other)
		for ctx.Err() == nil {
			req := httptest.NewRequestWithContext(ctx, http.MethodPost, "/bot"+token+"/getUpdates", strings.NewReader(`{"timeout":1}`))
			req.Header.Set("Content-Type", "application/json")
			h.api.ServeHTTP(httptest.NewRecorder(), req)
		}
	}()
	h.until(func() bool { return h.set.Status()[0].State == chat.StateFailing })
	h.want("error: another program receives this bot's messages @ alice/gateways channel bot")
	stop()
	<-other
}

// TestWebhook: the address at the platform is the channel's, or it is said where messages go.
func TestWebhook(t *testing.T) {
	h := newHouse(t)
	c := h.channel()
	c.Mode, c.URL, c.Port = mvm.ChannelWebhook, "https://bots.example.org/alice", 8443
	h.open(token)
	h.want("ok: the platform delivers to https://bots.example.org/alice", "ok: messages arrive at 127.0.0.1:8443 @ alice/gateways channel bot")
	h.api.SetWebhook("https://elsewhere.example.org/x", "s")
	h.want("error: the platform delivers to https://elsewhere.example.org/…, not to https://bots.example.org/alice")
	h.api.SetWebhook("", "")
	h.want("error: no webhook is set at the platform")
	h.answer = func(context.Context) (guestproto.Response, error) {
		at := h.now.Add(-time.Minute)
		return guestproto.Response{ChannelChecks: &guestproto.ChannelChecks{Channels: []guestproto.ChannelCheck{{ChannelStatus: guestproto.ChannelStatus{Name: "bot", State: "ready"},
			Platform: &guestproto.PlatformCheck{Result: "ok", Webhook: c.URL, WebhookError: "certificate verify failed", WebhookFailed: &at, Pending: 3}}}}}, nil
	}
	h.want("could not deliver https://bots.example.org/alice 1m0s ago: certificate verify failed", "ok: 3 messages kept at the platform until delivered",
		"warning: the gateway does not have the channel yet @ alice/gateways channel support")
}

// TestInbox: messages that wait for long, or are set aside.
func TestInbox(t *testing.T) {
	h := newHouse(t).open(token)
	c := guestproto.Channel{Channel: *h.support(), Token: []byte("hush"), Key: []byte("k")}
	body := []byte(`{"chat":"1","from":"a","text":"help"}`)
	req := httptest.NewRequest("POST", "/support", strings.NewReader(string(body)))
	req.Header = posted.Sign(c, "hush", "m1", body, h.now)
	w := httptest.NewRecorder()
	_, serve := h.hook.Webhook()
	serve.ServeHTTP(w, req)
	if w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	h.want("ok: 1 message in the inbox", "ok: 1 message on the way to workers")
	h.now = h.now.Add(time.Hour)
	h.want("warning: 1 message in the inbox; the oldest has waited for 1h", "see why with: mvm inbox list alice")
}

// TestNoGateway: nobody can say how the channels are.
func TestNoGateway(t *testing.T) {
	h := newHouse(t).open(token)
	for what, answer := range map[string]func(context.Context) (guestproto.Response, error){
		"error: the gateway does not answer: it is busy": func(context.Context) (guestproto.Response, error) {
			return guestproto.Response{}, errors.New("it is busy")
		},
		"error: the gateway does not answer: unexpected answer": func(context.Context) (guestproto.Response, error) { return guestproto.Response{Pong: true}, nil },
		"warning: this gateway runs an older mvm-guest": func(context.Context) (guestproto.Response, error) {
			return guestproto.Response{}, fmt.Errorf(`guest refused: Request "CheckChannels": %s`, guestproto.NoVariant)
		},
	} {
		h.answer = answer
		h.want(what, "ok: 2 ids in allow") // what is on record is checked all the same
	}
	h.answer = nil
	h.all[0].State = mvm.StateStopped
	h.want("error: no gateway runs, so no message arrives: alice/gateways/i-00000001 is stopped")
	h.all = h.all[1:]
	h.want("error: no gateway runs, so no message arrives: the pool has no instance")
}

// TestHostile: a gateway that lies gets short lines, and no fix of its own.
func TestHostile(t *testing.T) {
	h := newHouse(t)
	wicked := "\x1b[2J" + strings.Repeat("x", 100_000)
	h.answer = func(context.Context) (guestproto.Response, error) {
		var all []guestproto.ChannelCheck
		for n := range 1000 {
			name := "bot"
			if n > 0 {
				name = fmt.Sprint("other", n)
			}
			all = append(all, guestproto.ChannelCheck{ChannelStatus: guestproto.ChannelStatus{Name: name, State: wicked, Detail: wicked, Bot: wicked, Waiting: -5, Accepted: -1},
				Platform: &guestproto.PlatformCheck{Result: wicked, Detail: wicked}, Inbox: &guestproto.InboxCheck{Waiting: -1, Aside: -1, Damage: wicked}})
		}
		return guestproto.Response{ChannelChecks: &guestproto.ChannelChecks{Channels: all}}, nil
	}
	all, err := channelcheck.Tenant(t.Context(), h, "alice", h.now)
	if err != nil || len(all) > 20 {
		t.Fatalf("%d findings, %v", len(all), err)
	}
	for _, f := range all {
		if len(f.What) > 1000 || strings.Contains(f.Fix, "xxx") {
			t.Errorf("told: %.200q", f)
		}
	}
}
