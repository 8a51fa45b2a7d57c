package mailbox_test

import (
	"context"
	"log/slog"
	"math"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guest/chat"
	"mvm/internal/guest/chat/hook"
	"mvm/internal/guest/chat/posted"
	"mvm/internal/guestproto"
	"mvm/internal/mailbox"
)

// house has tenant acme with a gateway that keeps messages, and another pool.
type house struct {
	state   mvm.State
	answer  func(guestproto.Inbox) guestproto.Response
	events  []mvm.Event
	asked   int
	channel mvm.Channel
}

func (h *house) pools() []mvm.Pool {
	return []mvm.Pool{{Tenant: "acme", Spec: mvm.PoolSpec{ID: "gateways", Role: mvm.RoleGateway, Channels: []mvm.Channel{h.channel}}},
		{Tenant: "acme", Spec: mvm.PoolSpec{ID: "workers"}}}
}

func (h *house) Pools(context.Context, string) ([]mvm.Pool, error) { return h.pools(), nil }
func (h *house) Pool(_ context.Context, _, pool string) (mvm.Pool, error) {
	for _, p := range h.pools() {
		if p.Spec.ID == pool {
			return p, nil
		}
	}
	return mvm.Pool{}, mvm.Errorf(mvm.KindNotFound, "no pool %s", pool)
}
func (h *house) Instances(_ context.Context, a mvm.Address) ([]mvm.Instance, error) {
	return []mvm.Instance{{ID: "i-00000001", Tenant: a.Tenant, Pool: a.Pool, State: h.state}}, nil
}
func (h *house) Ask(_ context.Context, _ string, r guestproto.Request) (guestproto.Response, error) {
	h.asked++
	return h.answer(*r.Inbox), nil
}
func (h *house) Record(e mvm.Event) { h.events = append(h.events, e) }

func newHouse() (*house, *mailbox.Box) {
	h := &house{state: mvm.StateRunning, channel: mvm.Channel{Name: "support", Kind: mvm.ChannelHook, Mode: mvm.ChannelWebhook, Secret: "s", Allow: []string{"*"}, ChatFrom: "json:/chat",
		To: mvm.ChannelTarget{PoolID: "workers", TargetPort: 80, Path: "/", Selector: mvm.ChannelSelector{From: "chat"}}}}
	return h, &mailbox.Box{Guests: h, Journal: h}
}

// down are workers that can't be reached.
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
func (down) Record(string, guestproto.MessageEvent)          {}

// TestSteering: what a gateway keeps is listed without its text, shown with it, which is on
// record, tried again and dropped.
func TestSteering(t *testing.T) {
	h, box := newHouse()
	log := slog.New(slog.DiscardHandler)
	shelf := &hook.Shelf{Path: filepath.Join(t.TempDir(), "inbox.db"), Ready: func() error { return nil }, Log: log}
	c := guestproto.Channel{Channel: h.channel, Token: []byte("secret"), Key: []byte("k")}
	a := hook.Opener(shelf)(chat.AdapterOptions{Channel: c, Workers: down{}, Recorder: down{}, Log: log, Changed: func() {}})
	defer func() {
		a.Close()
		if err := shelf.Close(); err != nil {
			t.Error(err)
		}
	}()
	h.answer = func(q guestproto.Inbox) guestproto.Response {
		r := shelf.Answer(q)
		return guestproto.Response{InboxReport: &r}
	}
	large := strings.Repeat("x", 300_000) // more than one frame
	for n := range 250 {                  // more than one answer
		body := `{"chat":"c` + strconv.Itoa(n%10) + `","text":"hush ` + strconv.Itoa(n) + `"}`
		if n == 0 {
			body = `{"chat":"c0","text":"hush ` + large + `"}`
		}
		_, serve := a.Webhook()
		r := httptest.NewRequest("POST", "/support", strings.NewReader(body))
		r.Header = posted.Sign(c, "secret", "m"+strconv.Itoa(n), []byte(body), time.Now())
		w := httptest.NewRecorder()
		if serve.ServeHTTP(w, r); w.Code != 200 {
			t.Fatalf("%d: %d", n, w.Code)
		}
	}
	ctx := mvm.WithAsker(t.Context(), mvm.ParseAsker("cli:ann"))
	all, err := box.List(ctx, "acme")
	if err != nil || len(all) != 250 {
		t.Fatalf("%d messages, %v", len(all), err)
	}
	for n, m := range all {
		if m.ID != "m"+strconv.Itoa(n) || m.Pool != "gateways" || m.Channel != "support" || m.Chat == "" || strings.Contains(m.Chat, "c"+strconv.Itoa(n%10)) || m.Body != nil || m.Sender != "" {
			t.Fatalf("listed: %+v", m)
		}
	}
	if len(h.events) != 0 {
		t.Errorf("a list is on record as %+v", h.events)
	}
	m, err := box.Show(ctx, "acme", "gateways", all[0].Number)
	if err != nil || string(m.Body) != `{"chat":"c0","text":"hush `+large+`"}` {
		t.Errorf("shown: %d bytes, %v", len(m.Body), err)
	}
	if e := h.events; len(e) != 1 || e[0].Action != mvm.MessageRead || e[0].By.ID != "ann" || strings.Contains(e[0].Detail, "hush") {
		t.Errorf("on record: %+v", e)
	}
	if err := box.Drop(ctx, "acme", "gateways", all[0].Number); err != nil {
		t.Fatal(err)
	}
	if err := box.Retry(ctx, "acme", "gateways", all[1].Number); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"drop again": box.Drop(ctx, "acme", "gateways", all[0].Number), "retry": box.Retry(ctx, "acme", "gateways", all[0].Number),
		"show": func() error { _, err := box.Show(ctx, "acme", "gateways", all[0].Number); return err }(), "of a worker": box.Drop(ctx, "acme", "workers", 1)} {
		if !mvm.IsKind(err, mvm.KindNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if all, err = box.List(ctx, "acme"); err != nil || len(all) != 249 {
		t.Errorf("%d messages, %v", len(all), err)
	}
	if e := h.events; len(e) != 3 || e[1].Action != mvm.MessageDropped || e[2].Action != mvm.MessageRetried {
		t.Errorf("on record: %+v", e)
	}
}

// TestHostileGateways: what a gateway says is bounded, and ends.
func TestHostileGateways(t *testing.T) {
	h, box := newHouse()
	n := int64(0)
	h.answer = func(q guestproto.Inbox) guestproto.Response {
		r := guestproto.InboxReport{More: true}
		for range 1000 {
			n++
			r.Entries = append(r.Entries, guestproto.InboxEntry{Number: n, Size: math.MaxInt, ID: strings.Repeat("\x1b[2J", 1000), Channel: strings.Repeat("x", 1000), Why: strings.Repeat("y", 10_000), Refusals: -1})
		}
		return guestproto.Response{InboxReport: &r}
	}
	all, err := box.List(t.Context(), "acme")
	if err != nil || len(all) > 200*guestproto.MaxInboxEntries || h.asked > 200 {
		t.Errorf("%d messages after %d questions, %v", len(all), h.asked, err)
	}
	for _, m := range all[:10] {
		if m.Size > mvm.MaxMessageBytes || len(m.ID) > 300 || len(m.Channel) > 100 || len(m.Why) > 1000 || m.Refusals < 0 {
			t.Errorf("%+v", m)
		}
	}
	for name, answer := range map[string]func(guestproto.Inbox) guestproto.Response{
		"repeats": func(guestproto.Inbox) guestproto.Response {
			return guestproto.Response{InboxReport: &guestproto.InboxReport{More: true, Entries: []guestproto.InboxEntry{{Number: 3}, {Number: 3}, {Number: 2}}}}
		},
		"nothing, and more": func(guestproto.Inbox) guestproto.Response {
			return guestproto.Response{InboxReport: &guestproto.InboxReport{More: true}}
		},
	} {
		h.asked, h.answer = 0, answer
		if all, err := box.List(t.Context(), "acme"); err != nil || len(all) > 1 || h.asked > 2 {
			t.Errorf("%s: %d messages after %d questions, %v", name, len(all), h.asked, err)
		}
	}
	for name, r := range map[string]*guestproto.InboxReport{
		"none": nil, "other": {Entries: []guestproto.InboxEntry{{Number: 8}}}, "endless": {Entries: []guestproto.InboxEntry{{Number: 7, Size: 5}}},
		"huge": {Entries: []guestproto.InboxEntry{{Number: 7, Size: math.MaxInt}}, Body: []byte("x")}, "two": {Entries: []guestproto.InboxEntry{{Number: 7}, {Number: 7}}},
		"problem": {Problem: "no"}, "trickle": {Entries: []guestproto.InboxEntry{{Number: 7, Size: mvm.MaxMessageBytes}}, Body: []byte("x")},
	} {
		h.answer = func(guestproto.Inbox) guestproto.Response {
			if r == nil {
				return guestproto.Response{Pong: true}
			}
			return guestproto.Response{InboxReport: r}
		}
		h.asked = 0
		if m, err := box.Show(t.Context(), "acme", "gateways", 7); err == nil {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
		if h.asked > 20 {
			t.Errorf("%s: asked %d times", name, h.asked)
		}
	}
	if len(h.events) != 0 {
		t.Errorf("on record: %+v", h.events)
	}
	h.state = mvm.StateStopped
	if _, err := box.List(t.Context(), "acme"); !mvm.IsKind(err, mvm.KindState) || !strings.Contains(err.Error(), "instance start") {
		t.Errorf("a stopped gateway: %v", err)
	}
}
