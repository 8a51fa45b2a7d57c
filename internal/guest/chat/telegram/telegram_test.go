package telegram_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guest/chat"
	"mvm/internal/guestproto"
	"mvm/test/botapi"
)

// TestMessageReachesItsWorker: typing is shown at once, the worker gets the update with its
// own secret, and Telegram forgets it once the worker has it on disk.
func TestMessageReachesItsWorker(t *testing.T) {
	s := newStage(t, nil).open()
	s.api.Write(7, 7, "hello")
	s.until("confirmed", s.confirmed)
	w := s.fleet.of("alice")
	w.set(func() {
		if len(w.disk) != 1 || w.heads[0].Get("X-Telegram-Bot-Api-Secret-Token") != s.is.WebhookSecret("i-alice") || w.heads[0].Get("Content-Type") != "application/json" {
			t.Errorf("on disk %v, heads %v", w.disk, w.heads)
		}
	})
	s.until("a sign of typing", func() bool { return len(s.api.Calls("sendChatAction")) > 0 })
	typing := s.api.Calls("sendChatAction")
	if fmt.Sprint(typing[0].Params["chat_id"]) != "7" || typing[0].Params["action"] != "typing" {
		t.Errorf("signs of typing: %+v", typing)
	}
	if st := s.bot.Status(); st.State != chat.StateReady || st.Bot != "@standin_bot" || st.Accepted != 1 || st.Last == nil || s.events.count("accepted") != 1 {
		t.Errorf("status %+v, %d events", st, s.events.count("accepted"))
	}
	if !s.fleet.channels["bot"] {
		t.Error("the worker was not asked for in the channel's name")
	}
}

// TestStrangersWakeNobody: who is not listed, a group that is not, and a member of a listed
// group who is not, cause nothing but an event.
func TestStrangersWakeNobody(t *testing.T) {
	s := newStage(t, func(c *guestproto.Channel) { c.Allow = []string{"7", "-100"} }).open()
	s.api.Write(8, 8, "hello")
	s.api.Write(-200, 7, "hello")
	s.api.Write(-100, 8, "hello")
	s.api.Add(func(int64) map[string]any {
		return map[string]any{"callback_query": map[string]any{"id": "1", "from": map[string]any{"id": 8}, "message": map[string]any{"chat": map[string]any{"id": 7}}}}
	})
	s.api.Add(func(int64) map[string]any { return map[string]any{"poll": map[string]any{"id": "5"}} })
	s.until("confirmed", s.confirmed)
	s.fleet.mu.Lock()
	if s.fleet.reaches != 0 {
		t.Errorf("workers were asked for %d times", s.fleet.reaches)
	}
	s.fleet.mu.Unlock()
	if n := s.events.count("refused"); n != 5 || s.bot.Status().Refused != 5 || len(s.api.Calls("sendChatAction"))+len(s.api.Calls("sendMessage")) != 0 {
		t.Errorf("%d refused, status %+v", n, s.bot.Status())
	}
	s.api.Write(-100, 7, "in a listed group")
	s.until("confirmed", s.confirmed)
	if got := s.fleet.of("alice").texts(); len(got) != 1 {
		t.Errorf("accepted %q", got)
	}
}

// TestKeys: which worker a message is for.
func TestKeys(t *testing.T) {
	for from, want := range map[string]string{"chat": "-100", "sender": "7", "fixed:bob": "bob", "": ""} {
		t.Run(from, func(t *testing.T) {
			s := newStage(t, func(c *guestproto.Channel) {
				c.Allow, c.To.Selector.From = []string{"*"}, from
			}).open()
			s.api.Write(-100, 7, "hello")
			s.until("confirmed", s.confirmed)
			if got := s.fleet.of(want).texts(); len(got) != 1 {
				t.Errorf("worker %q has %q", want, got)
			}
		})
	}
}

// TestOneTurnAtATime: a message waits until the worker is idle, and a command passes it.
func TestOneTurnAtATime(t *testing.T) {
	s := newStage(t, nil)
	w := s.fleet.of("alice")
	w.hold = make(chan struct{})
	s.open()
	s.api.Write(7, 7, "first")
	s.until("first", func() bool { return len(w.texts()) == 1 })
	s.api.Write(7, 7, "second")
	s.api.Write(7, 7, "/stop")
	s.until("the command", func() bool { return len(w.texts()) == 2 })
	if got := w.texts(); !slices.Equal(got, []string{"first", "/stop"}) {
		t.Fatalf("while the first turn goes on the worker has %q", got)
	}
	if p := s.api.Pending(); len(p) < 2 {
		t.Errorf("what waits is confirmed: %d pending", len(p))
	}
	w.set(func() { close(w.hold); w.hold = nil })
	s.until("confirmed", s.confirmed)
	if got := w.texts(); !slices.Equal(got, []string{"first", "/stop", "second"}) {
		t.Errorf("accepted %q", got)
	}
}

// TestNothingWhileServicesHoldStill: not even a command comes between suspend and resume.
func TestNothingWhileServicesHoldStill(t *testing.T) {
	s := newStage(t, nil)
	w := s.fleet.of("alice")
	w.held = true
	looked := make(chan struct{}, 100)
	s.fleet.hook = func(step string, _ *worker) {
		if step == "preflight" {
			select {
			case looked <- struct{}{}:
			default:
			}
		}
	}
	s.open()
	s.api.Write(7, 7, "/status")
	for range 5 {
		<-looked
	}
	if got := w.texts(); len(got) > 0 {
		t.Fatalf("delivered to services that hold still: %q", got)
	}
	w.set(func() { w.held = false })
	s.until("confirmed", s.confirmed)
}

// TestAnswersThatDoNotCount: a 200 without the header, and errors, are not deliveries; after
// some the message is set aside, its sender is told once, and the next one goes on.
func TestAnswersThatDoNotCount(t *testing.T) {
	for name, broken := range map[string]func(w *worker){"without the header": func(w *worker) { w.plain = true }, "400": func(w *worker) { w.status = 400 }, "503": func(w *worker) { w.status = 503 }} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, nil)
			s.lim.Errors = 7
			w := s.fleet.of("alice")
			broken(w)
			s.open()
			s.api.Write(7, 7, "poison")
			s.until("set aside", func() bool { return s.bot.Status().SetAside == 1 })
			w.set(func() { w.plain, w.status = false, 0 })
			s.api.Write(7, 7, "next")
			s.until("confirmed", s.confirmed)
			if got := w.texts(); !slices.Contains(got, "next") {
				t.Errorf("accepted %q", got)
			}
			if sent := s.api.Sent(); len(sent) != 1 || !strings.Contains(sent[0].Text, "could not take") || s.events.count("set_aside") != 1 {
				t.Errorf("the chat was told %+v, %d events", sent, s.events.count("set_aside"))
			}
		})
	}
}

// TestSlowWorker: while the worker does not come up its senders are told so, once each time.
func TestSlowWorker(t *testing.T) {
	s := newStage(t, nil)
	s.lim.Slow = 20 * time.Millisecond
	w := s.fleet.of("alice")
	w.reach = mvm.Errorf(mvm.KindUnavailable, "no room")
	s.open()
	s.api.Write(7, 7, "one")
	s.api.Write(7, 7, "two")
	s.until("told", func() bool { return len(s.api.Sent()) == 1 })
	s.until("signs of typing", func() bool { return len(s.api.Calls("sendChatAction")) >= 3 })
	w.set(func() { w.reach = nil })
	s.until("confirmed", s.confirmed)
	if sent := s.api.Sent(); len(sent) != 1 || !strings.Contains(sent[0].Text, "still starting") {
		t.Errorf("told %+v", sent)
	}
	if got := w.texts(); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("accepted %q", got)
	}
}

// TestFloodOfOneChat: what one chat may have waiting is bounded, and it is told.
func TestFloodOfOneChat(t *testing.T) {
	s := newStage(t, func(c *guestproto.Channel) { c.Allow, c.To.Selector.From = []string{"*"}, "chat" })
	s.lim.PerChat = 10
	w := s.fleet.of("7")
	w.reach = mvm.Errorf(mvm.KindUnavailable, "no room")
	for n := range 60 {
		s.api.Write(7, 7, fmt.Sprint(n))
	}
	s.api.Write(8, 8, "another chat")
	s.open()
	s.until("the other chat", func() bool { return len(s.fleet.of("8").texts()) == 1 })
	s.until("told", func() bool { return len(s.api.Sent()) == 1 })
	s.until("10 wait", func() bool { return s.bot.Status().Waiting == 10 })
	w.set(func() { w.reach = nil })
	s.until("confirmed", s.confirmed)
	if got := w.texts(); len(got) != 10 || got[0] != "0" || got[9] != "9" {
		t.Errorf("accepted %q", got)
	}
}

// TestNewChatsAreBounded: a channel that is open to everybody makes only so many workers at
// once.
func TestNewChatsAreBounded(t *testing.T) {
	s := newStage(t, func(c *guestproto.Channel) { c.Allow, c.To.Selector.From = []string{"*"}, "chat" })
	for n := range 40 {
		s.api.Write(int64(100+n), int64(100+n), "hi")
	}
	s.open()
	s.until("confirmed", s.confirmed)
	if n := len(s.fleet.all()); n < 20 || n > 25 {
		t.Errorf("%d workers were made", n)
	}
}

// TestStatusSaysWhy: what a person can do something about is in the status, and the token is
// not; the bot recovers by itself.
func TestStatusSaysWhy(t *testing.T) {
	for name, c := range map[string]struct {
		fault botapi.Fault
		want  string
	}{
		"another poller": {botapi.Fault{Method: "getupdates", Times: 1, Status: 409, Text: "Conflict: terminated by other getUpdates request"}, "another program receives"},
		"slow down":      {botapi.Fault{Method: "getupdates", Times: 1, Status: 429, RetryAfter: 1, Text: "Too Many Requests: retry after 1"}, "asks to wait for 1s"},
		"broken":         {botapi.Fault{Method: "getupdates", Times: 1, Status: 502, Text: "Bad Gateway"}, "502"},
		"cut":            {botapi.Fault{Method: "getupdates", Times: 1}, "can't be reached"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, nil)
			s.api.Fail(c.fault)
			s.open()
			s.until("failing", func() bool { return s.bot.Status().State == chat.StateFailing })
			if d := s.bot.Status().Detail; !strings.Contains(d, c.want) || strings.Contains(d, "REALTOKEN") {
				t.Errorf("detail %q, want %q", d, c.want)
			}
			s.api.Write(7, 7, "after all")
			s.until("confirmed", s.confirmed)
			if st := s.bot.Status(); st.State != chat.StateReady || st.Detail != "" {
				t.Errorf("afterwards %+v", st)
			}
		})
	}
	t.Run("revoked token", func(t *testing.T) {
		s := newStage(t, nil)
		s.api.SetToken("222222:OTHER")
		s.open()
		s.until("failing", func() bool { return s.bot.Status().State == chat.StateFailing })
		if d := s.bot.Status().Detail; !strings.Contains(d, "set the secret telegram_token") {
			t.Errorf("detail %q", d)
		}
	})
	t.Run("no secret", func(t *testing.T) {
		s := newStage(t, func(c *guestproto.Channel) { c.Token = nil }).open()
		if st := s.bot.Status(); st.State != chat.StateFailing || !strings.Contains(st.Detail, "no secret telegram_token") || len(s.api.Calls("")) > 0 {
			t.Errorf("status %+v", st)
		}
	})
}

// TestLeftoverWebhook: a bot that polls removes a webhook that another program left, and
// loses no update by that.
func TestLeftoverWebhook(t *testing.T) {
	s := newStage(t, nil)
	s.api.SetWebhook("http://127.0.0.1:1/gone", "x")
	s.api.Write(7, 7, "hello")
	s.open()
	s.until("confirmed", s.confirmed)
	if s.api.WebhookURL() != "" || len(s.fleet.of("alice").texts()) != 1 {
		t.Errorf("webhook %q, accepted %q", s.api.WebhookURL(), s.fleet.of("alice").texts())
	}
}

// TestTelegramIsAway: nothing is lost while Telegram can't be reached.
func TestTelegramIsAway(t *testing.T) {
	s := newStage(t, nil)
	s.api.SetDown(true)
	s.open()
	s.until("failing", func() bool { return s.bot.Status().State == chat.StateFailing })
	s.api.Write(7, 7, "hello")
	s.api.SetDown(false)
	s.until("confirmed", s.confirmed)
}

// TestNumbersThatStartAnew: after a quiet week Telegram may go on with lower numbers.
func TestNumbersThatStartAnew(t *testing.T) {
	s := newStage(t, nil).open()
	high := s.api.Write(7, 7, "old")
	s.until("confirmed", s.confirmed)
	s.until("a poll waits that confirms nothing", func() bool {
		calls := s.api.Calls("getUpdates")
		return calls[len(calls)-1].Params["offset"] == nil && len(calls) > 1
	})
	s.api.SetDown(true)
	s.server.CloseClientConnections() // the poll that waits ends, and the next one is made anew
	s.api.Renumber(high - 500)
	s.api.Write(7, 7, "new")
	s.api.SetDown(false)
	s.until("confirmed", s.confirmed)
	if got := s.fleet.of("alice").texts(); len(got) != 2 {
		t.Errorf("accepted %q", got)
	}
}

// webhookStage is a bot whose updates Telegram delivers itself.
func webhookStage(t *testing.T) *stage {
	var s *stage
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, h := s.bot.Webhook()
		if r.URL.Path != path {
			http.NotFound(w, r)
			return
		}
		h.ServeHTTP(w, r)
	}))
	s = newStage(t, func(c *guestproto.Channel) {
		c.Mode, c.Port, c.URL = mvm.ChannelWebhook, 8443, front.URL+"/alice"
	})
	s.open()
	t.Cleanup(front.Close)
	return s
}

// TestWebhook: updates that Telegram delivers are answered once the worker has them on disk,
// and come again where it does not.
func TestWebhook(t *testing.T) {
	s := webhookStage(t)
	w := s.fleet.of("alice")
	s.until("set", func() bool { return s.api.WebhookURL() == s.is.URL })
	s.api.Write(7, 7, "hello")
	s.api.Write(8, 8, "a stranger")
	s.api.Write(7, 7, "again")
	s.until("confirmed", s.confirmed)
	if got := w.texts(); !slices.Equal(got, []string{"hello", "again"}) || s.events.count("refused") != 1 {
		t.Errorf("accepted %q", got)
	}
	calls := s.api.Calls("setWebhook")
	if len(calls) != 1 || calls[0].Params["secret_token"] != s.is.PlatformSecret() || len(s.api.Calls("getUpdates")) != 0 {
		t.Errorf("calls %+v", calls)
	}
}

// TestForgedWebhook: without Telegram's secret nothing happens.
func TestForgedWebhook(t *testing.T) {
	s := webhookStage(t)
	body := `{"update_id":5,"message":{"from":{"id":7},"chat":{"id":7},"text":"forged"}}`
	for _, secret := range []string{"", "x", s.is.WebhookSecret("i-alice"), s.is.PlatformSecret() + "x"} {
		req, err := http.NewRequest(http.MethodPost, s.is.URL, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Telegram-Bot-Api-Secret-Token", secret)
		resp, err := s.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("secret %q: %d", secret, resp.StatusCode)
		}
	}
	s.fleet.mu.Lock()
	defer s.fleet.mu.Unlock()
	if s.fleet.reaches != 0 {
		t.Error("a forged update woke a worker")
	}
}

// TestKnownAtOnce: how a bot is that gets no messages is known at its start, and after a
// failure, and not only when the long poll ends.
func TestKnownAtOnce(t *testing.T) {
	s := newStage(t, nil).open()
	s.until("ready", func() bool { return s.bot.Status().State == chat.StateReady })
	s.api.SetWebhook("https://elsewhere.example.org/", "s") // the poll that waits is told
	s.until("ready again, without the webhook", func() bool { return s.api.WebhookURL() == "" && s.bot.Status().State == chat.StateReady })
	s.api.SetToken("111:another")
	s.api.Write(7, 7, "hello")
	s.until("failing", func() bool { return s.bot.Status().State == chat.StateFailing })
}
