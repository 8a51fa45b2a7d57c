package posted_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guest/chat/posted"
	"mvm/internal/guestproto"
)

const secret = "s3cret"

func now() time.Time { return time.Unix(1_800_000_000, 0) }

func channel(kind mvm.ChannelKind, auth mvm.HookAuth) guestproto.Channel {
	return guestproto.Channel{Channel: mvm.Channel{Name: "hook", Kind: kind, Secret: "s", Auth: auth, VerifySecret: "v"}, Token: []byte(secret + "\n"), Verify: []byte("verify\n")}
}

// signed is a request as the platform signs it.
func signed(c guestproto.Channel, body string) posted.Request {
	return posted.Request{Method: "POST", Header: posted.Sign(c, secret, "id-1", []byte(body), now()), Body: []byte(body)}
}

// TestKnownSignatures: what platforms publish as an example, or others have computed, is
// taken. The bodies of two of them are no messages, which is said only after the signature.
func TestKnownSignatures(t *testing.T) {
	for name, x := range map[string]struct {
		c      guestproto.Channel
		secret string
		at     int64
		header map[string]string
		body   string
	}{
		"slack": {channel(mvm.ChannelSlack, ""), "8f742231b10e8888abcd99yyyzzz85a5", 1531420618,
			map[string]string{"X-Slack-Request-Timestamp": "1531420618", "X-Slack-Signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"},
			"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"},
		"hub": {channel(mvm.ChannelHook, mvm.HookHub), "It's a Secret to Everybody", 0,
			map[string]string{"X-Hub-Signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"}, "Hello, World!"},
		"standard": {channel(mvm.ChannelHook, ""), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 1614265330,
			map[string]string{"Webhook-Id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "Webhook-Timestamp": "1614265330", "Webhook-Signature": "v1,AAAA v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
			`{"test": 2432232314}`},
	} {
		x.c.Token = []byte(x.secret)
		r := posted.Request{Method: "POST", Header: http.Header{}, Body: []byte(x.body)}
		for k, v := range x.header {
			r.Header.Set(k, v)
		}
		if _, err := posted.Read(x.c, r, time.Unix(x.at, 0)); mvm.IsKind(err, mvm.KindPolicy) || err == nil != (name == "standard") {
			t.Errorf("%s: %v", name, err)
		}
		r.Body = append(r.Body, ' ')
		if _, err := posted.Read(x.c, r, time.Unix(x.at, 0)); !mvm.IsKind(err, mvm.KindPolicy) {
			t.Errorf("%s with another body: %v", name, err)
		}
	}
}

var kinds = map[string]guestproto.Channel{ //nolint:gochecknoglobals // a table
	"slack": channel(mvm.ChannelSlack, ""), "whatsapp": channel(mvm.ChannelWhatsApp, ""), "line": channel(mvm.ChannelLine, ""),
	"standard": channel(mvm.ChannelHook, ""), "hub": channel(mvm.ChannelHook, mvm.HookHub), "bearer": channel(mvm.ChannelHook, mvm.HookBearer),
}

const empty = `{"type":"x"}`

// TestForgedRequests: of each kind, what was signed is taken, and nothing that was changed
// since, is too old, or was signed with another secret or with none.
func TestForgedRequests(t *testing.T) {
	for kind, c := range kinds {
		if _, err := posted.Read(c, signed(c, empty), now()); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		stamped := kind == "slack" || kind == "standard"
		for what, at := range map[string]time.Duration{"late": 5*time.Minute + 2*time.Second, "early": -5*time.Minute - 2*time.Second} {
			if _, err := posted.Read(c, signed(c, empty), now().Add(at)); mvm.IsKind(err, mvm.KindPolicy) != stamped {
				t.Errorf("%s, %s: %v", kind, what, err)
			}
		}
		forged := map[string]func(r *posted.Request){
			"no head": func(r *posted.Request) { r.Header = http.Header{} },
			"other secret": func(r *posted.Request) {
				r.Header = posted.Sign(c, "other", "id-1", r.Body, now())
			},
			"no secret": func(r *posted.Request) { r.Header = posted.Sign(c, "", "id-1", r.Body, now()) },
			"twice": func(r *posted.Request) {
				for k := range r.Header {
					r.Header.Add(k, r.Header.Get(k))
				}
			},
		}
		if kind != "bearer" {
			forged["body"] = func(r *posted.Request) { r.Body = []byte(empty + " ") }
		}
		for what, forge := range forged {
			r := signed(c, empty)
			forge(&r)
			if p, err := posted.Read(c, r, now()); !mvm.IsKind(err, mvm.KindPolicy) || len(p.Messages) > 0 {
				t.Errorf("%s, %s: %+v, %v", kind, what, p, err)
			}
		}
		for name := range signed(c, empty).Header {
			r := signed(c, empty)
			v := []byte(r.Header.Get(name))
			v[len(v)-2] ^= 1
			r.Header.Set(name, string(v))
			if _, err := posted.Read(c, r, now()); !mvm.IsKind(err, mvm.KindPolicy) {
				t.Errorf("%s with another %s: %v", kind, name, err)
			}
		}
		c.Token = []byte("\n")
		r := posted.Request{Method: "POST", Header: posted.Sign(c, "", "id-1", []byte(empty), now()), Body: []byte(empty)}
		if _, err := posted.Read(c, r, now()); !mvm.IsKind(err, mvm.KindState) {
			t.Errorf("%s of a tenant without the secret: %v", kind, err)
		}
	}
}

func TestMessages(t *testing.T) {
	hook := func(id, chat, sender string) guestproto.Channel {
		c := channel(mvm.ChannelHook, "")
		c.IDFrom, c.ChatFrom, c.SenderFrom = id, chat, sender
		return c
	}
	hub := hook("header:X-Id", "", "")
	hub.Auth = mvm.HookHub
	for name, x := range map[string]struct {
		c    guestproto.Channel
		body string
		want []posted.Message // Body is compared as JSON
	}{
		"slack": {kinds["slack"], `{"type":"event_callback","event_id":"Ev1","event":{"type":"message","channel":"C1","user":"U1","text":"hi"}}`,
			[]posted.Message{{ID: "Ev1", Chat: "C1", Sender: "U1", Group: true, Body: []byte(`{"type":"event_callback","event_id":"Ev1","event":{"type":"message","channel":"C1","user":"U1","text":"hi"}}`)}}},
		"slack, direct": {kinds["slack"], `{"type":"event_callback","event_id":"Ev6","event":{"type":"message","channel":"D1","user":"U1"}}`,
			[]posted.Message{{ID: "Ev6", Chat: "D1", Sender: "U1"}}},
		"slack reaction": {kinds["slack"], `{"type":"event_callback","event_id":"Ev2","event":{"type":"reaction_added","user":"U1","item":{"channel":"C1"}}}`,
			[]posted.Message{{ID: "Ev2", Chat: "C1", Sender: "U1", Group: true}}},
		"slack edit": {kinds["slack"], `{"type":"event_callback","event_id":"Ev3","event":{"type":"message","subtype":"message_changed","channel":"C1","message":{"user":"U2"}}}`,
			[]posted.Message{{ID: "Ev3", Chat: "C1", Sender: "U2", Group: true}}},
		"slack objects": {kinds["slack"], `{"type":"event_callback","event_id":"Ev4","event":{"type":"channel_created","channel":{"id":"C9"},"user":{"id":"U9"}}}`,
			[]posted.Message{{ID: "Ev4", Chat: "C9", Sender: "U9", Group: true}}},
		"slack bot": {kinds["slack"], `{"type":"event_callback","event_id":"Ev5","event":{"type":"message","channel":"C1","bot_id":"B1","user":"U1"}}`, nil},
		"whatsapp": {kinds["whatsapp"], `{"object":"whatsapp_business_account","entry":[{"id":"E","time":7,"changes":[{"field":"messages","value":{"metadata":{"phone_number_id":"P"},
			"contacts":[{"wa_id":"491"}],"messages":[{"from":"491","id":"wamid.1","text":{"body":"a"}},{"from":"492","id":"wamid.2"}],"statuses":[{"id":"s"}]}}]},
			{"id":"F","changes":[{"field":"messages","value":{"statuses":[{"id":"s"}]}},{"field":"messages","value":{"messages":[{"from":"491","id":"wamid.3"}]}}]}]}`,
			[]posted.Message{
				{ID: "wamid.1", Chat: "491", Sender: "491", Body: []byte(`{"object":"whatsapp_business_account","entry":[{"id":"E","time":7,"changes":[{"field":"messages","value":{"metadata":{"phone_number_id":"P"},
			"contacts":[{"wa_id":"491"}],"messages":[{"from":"491","id":"wamid.1","text":{"body":"a"}}]}}]}]}`)},
				{ID: "wamid.2", Chat: "492", Sender: "492"},
				{ID: "wamid.3", Chat: "491", Sender: "491", Body: []byte(`{"object":"whatsapp_business_account","entry":[{"id":"F","changes":[{"field":"messages","value":{"messages":[{"from":"491","id":"wamid.3"}]}}]}]}`)}}},
		"line": {kinds["line"], `{"destination":"D","events":[{"type":"message","webhookEventId":"W1","source":{"type":"user","userId":"U1"},"replyToken":"r"},
			{"type":"message","webhookEventId":"W2","source":{"type":"group","groupId":"G1","userId":"U1"}},{"type":"join","webhookEventId":"W3","source":{"type":"room","roomId":"R1"}}]}`,
			[]posted.Message{
				{ID: "W1", Chat: "U1", Sender: "U1", Body: []byte(`{"destination":"D","events":[{"type":"message","webhookEventId":"W1","source":{"type":"user","userId":"U1"},"replyToken":"r"}]}`)},
				{ID: "W2", Chat: "G1", Sender: "U1", Group: true}, {ID: "W3", Chat: "R1", Group: true}}},
		"line, a try":   {kinds["line"], `{"destination":"D","events":[]}`, nil},
		"standard":      {hook("", "json:/thread/id", "json:/from"), `{"thread":{"id":42},"from":"bob"}`, []posted.Message{{ID: "id-1", Chat: "42", Sender: "bob"}}},
		"standard, own": {hook("json:/a~1b", "", ""), `{"a/b":"x1"}`, []posted.Message{{ID: "x1"}}},
		"hub":           {hub, `{}`, []posted.Message{{ID: "h1"}}},
		"bearer":        {kinds["bearer"], `[1]`, []posted.Message{{}}},
	} {
		r := signed(x.c, x.body)
		r.Header.Set("X-Id", "h1")
		p, err := posted.Read(x.c, r, now())
		if err != nil || p.Answer != "" || len(p.Messages) != len(x.want) {
			t.Errorf("%s: %+v, %v", name, p, err)
			continue
		}
		for n, want := range x.want {
			got := p.Messages[n]
			if got.ID != want.ID || got.Chat != want.Chat || got.Sender != want.Sender || got.Group != want.Group || want.Body != nil && compact(t, got.Body) != compact(t, want.Body) {
				t.Errorf("%s, message %d: %+v %s", name, n, got, got.Body)
			}
		}
	}
}

func compact(t *testing.T, b []byte) string {
	t.Helper()
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestUnreadable: what is signed and has no message in it that could be told from others is
// refused, and so is more than the bounds.
func TestUnreadable(t *testing.T) {
	long := strings.Repeat("x", 300)
	many := `{"events":[` + strings.TrimSuffix(strings.Repeat(`{"webhookEventId":"W"},`, posted.MaxMessages+1), ",") + `]}`
	hook := channel(mvm.ChannelHook, "")
	hook.ChatFrom = "json:/c"
	for name, x := range map[string]struct {
		c    guestproto.Channel
		body string
	}{
		"slack, no JSON": {kinds["slack"], "payload=x"}, "slack, no id": {kinds["slack"], `{"type":"event_callback"}`},
		"slack, long id":      {kinds["slack"], `{"type":"event_callback","event_id":"` + long + `"}`},
		"slack, no challenge": {kinds["slack"], `{"type":"url_verification"}`}, "slack, long challenge": {kinds["slack"], `{"type":"url_verification","challenge":"` + strings.Repeat("x", 2000) + `"}`},
		"slack, control": {kinds["slack"], `{"type":"event_callback","event_id":"a\u001b[2J"}`},
		"whatsapp, list": {kinds["whatsapp"], `[]`}, "whatsapp, no id": {kinds["whatsapp"], `{"entry":[{"changes":[{"value":{"messages":[{"from":"1"}]}}]}]}`},
		"whatsapp, other form": {kinds["whatsapp"], `{"entry":{"changes":1}}`},
		"line, no id":          {kinds["line"], `{"events":[{}]}`}, "line, many": {kinds["line"], many}, "line, number": {kinds["line"], `{"events":7}`},
		"hook, no JSON": {kinds["hub"], "x"}, "hook, no chat": {hook, `{"d":1}`}, "hook, two chats": {hook, `{"c":"1","c":"2"}`}, "hook, empty chat": {hook, `{"c":""}`},
		"hook, an object": {hook, `{"c":{}}`}, "hook, newline": {hook, `{"c":"a\nb"}`},
	} {
		if p, err := posted.Read(x.c, signed(x.c, x.body), now()); !mvm.IsKind(err, mvm.KindInvalid) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	for _, method := range []string{"GET", "PUT", ""} {
		r := signed(kinds["slack"], empty)
		r.Method = method
		if _, err := posted.Read(kinds["slack"], r, now()); err == nil {
			t.Errorf("method %q is taken", method)
		}
	}
}

// TestChallenges: the questions by which platforms verify an address are answered, to those
// who know the secret.
func TestChallenges(t *testing.T) {
	if p, err := posted.Read(kinds["slack"], signed(kinds["slack"], `{"type":"url_verification","challenge":"abc"}`), now()); err != nil || p.Answer != "abc" {
		t.Errorf("slack: %+v, %v", p, err)
	}
	ask := func(c guestproto.Channel, q url.Values) (posted.Post, error) {
		return posted.Read(c, posted.Request{Method: "GET", Query: q}, now())
	}
	good := url.Values{"hub.mode": {"subscribe"}, "hub.verify_token": {"verify"}, "hub.challenge": {"1158201444"}}
	if p, err := ask(kinds["whatsapp"], good); err != nil || p.Answer != "1158201444" {
		t.Errorf("whatsapp: %+v, %v", p, err)
	}
	for name, change := range map[string]func(q url.Values, c *guestproto.Channel){
		"wrong token": func(q url.Values, _ *guestproto.Channel) { q.Set("hub.verify_token", "x") }, "no token": func(q url.Values, _ *guestproto.Channel) { q.Del("hub.verify_token") },
		"no challenge": func(q url.Values, _ *guestproto.Channel) { q.Del("hub.challenge") }, "mode": func(q url.Values, _ *guestproto.Channel) { q.Set("hub.mode", "x") },
		"script":    func(q url.Values, _ *guestproto.Channel) { q.Set("hub.challenge", "a\x00b") },
		"no secret": func(q url.Values, c *guestproto.Channel) { q.Del("hub.verify_token"); c.Verify = nil },
	} {
		q, c := url.Values{}, kinds["whatsapp"]
		for k, v := range good {
			q[k] = v
		}
		change(q, &c)
		if p, err := ask(c, q); err == nil || p.Answer != "" {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

// FuzzRead: whatever is signed, what is read of it is bounded and can be delivered: each
// message is JSON by itself and can be read again.
func FuzzRead(f *testing.F) {
	for _, s := range []string{empty, `{"events":[{"webhookEventId":"1","source":{"userId":"u"}}]}`, `{"entry":[{"changes":[{"value":{"messages":[{"id":"1","from":"2"}]}}]}]}`,
		`{"type":"event_callback","event_id":"1","event":{"channel":{"id":"c"},"user":7}}`, `{"c":"1"}`, `[[[`, `{"entry":null}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for kind, c := range kinds {
			p, err := posted.Read(c, signed(c, string(body)), now())
			if mvm.IsKind(err, mvm.KindPolicy) {
				t.Fatalf("%s: %v", kind, err)
			}
			if err != nil {
				continue
			}
			for n, m := range p.Messages {
				if len(m.ID) > 256 || len(m.Chat) > 256 || len(m.Sender) > 256 || !json.Valid(m.Body) {
					t.Fatalf("%s: message %d: %+v %s", kind, n, m, m.Body)
				}
				again, err := posted.Read(c, signed(c, string(m.Body)), now())
				if err != nil || len(again.Messages) != 1 || again.Messages[0].ID != m.ID || again.Messages[0].Chat != m.Chat || again.Messages[0].Sender != m.Sender {
					t.Fatalf("%s: message %d read again: %s: %+v, %v", kind, n, strconv.Quote(string(m.Body)), again, err)
				}
			}
		}
	})
}
