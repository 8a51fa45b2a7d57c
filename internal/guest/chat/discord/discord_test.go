package discord_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guest/chat"
	"mvm/internal/guestproto"
	"mvm/test/discordapi"
)

// TestAnswer: a message gets its reply, and the worker never sees the token.
func TestAnswer(t *testing.T) {
	p := newPlace(t, discordapi.Options{}, mvm.KeyFromChat, alice, onServer)
	p.worker.turn = func(m asked) (answer, time.Duration) {
		return answer{Reply: "heard: " + m.Content + " @everyone"}, 300 * time.Millisecond
	}
	p.open()
	p.ready()
	id := p.api.Write(direct, alice, "hello")
	p.answered(direct, 1)
	m := p.api.Sent(direct)[0]
	if m.Text != "heard: hello @everyone" || m.ReplyTo != id || m.Pings {
		t.Errorf("sent %+v", m)
	}
	if n := p.api.Typing(direct); n < 2 {
		t.Errorf("%d signs of typing in 300 ms", n)
	}
	p.api.Write(onServer, alice, "<@"+discordapi.BotID+"> hi", discordapi.BotID)
	p.answered(onServer, 1)
	p.worker.mu.Lock()
	defer p.worker.mu.Unlock()
	for _, h := range p.worker.heads {
		if text := fmt.Sprint(h); strings.Contains(text, token) || h.Get("Authorization") != "Bearer "+p.c.WebhookSecret("i-00000001") {
			t.Errorf("a worker gets %s", text)
		}
	}
	if p.worker.keys[direct] == 0 || p.worker.keys[onServer] == 0 || len(p.worker.keys) != 2 {
		t.Errorf("keys %v", p.worker.keys)
	}
	if s := p.bot.Status(); s.Bot != "helper" || s.Accepted != 2 {
		t.Errorf("%+v", s)
	}
}

// TestStrangers: nobody is woken for who is not allowed, for bots, and for what people write
// to each other.
func TestStrangers(t *testing.T) {
	p := newPlace(t, discordapi.Options{}, mvm.KeyFromChat, alice, "42")
	other := "200000000000000003"
	p.api.AddChannel(other, "300000000000000009")
	p.open()
	p.ready()
	p.api.Write(direct, mallory, "hello")                   // not allowed
	p.api.Write(onServer, alice, "hello", discordapi.BotID) // nor is the channel
	p.api.Write(other, alice, "hello", discordapi.BotID)    // nor its server
	p.api.WriteAsBot(direct, alice, "hello")                // a bot
	p.api.Write(onServer, alice, "hello, you")              // not to the bot
	p.until("refusals", func() bool { return p.worker.count(guestproto.MessageRefused) >= 3 })
	p.api.Write(direct, alice, "the end")
	p.answered(direct, 1)
	if n := p.worker.count(guestproto.MessageRefused); n != 3 || len(p.worker.order) != 1 || p.worker.reaches != 1 {
		t.Errorf("%d refused, %d delivered, %d asked for a worker", n, len(p.worker.order), p.worker.reaches)
	}
}

// TestServerAllowed: a server in allow stands for its channels.
func TestServerAllowed(t *testing.T) {
	p := newPlace(t, discordapi.Options{}, mvm.KeyFromSender, alice, server)
	p.open()
	p.ready()
	p.api.Write(onServer, mallory, "hi", discordapi.BotID)
	p.api.Write(onServer, alice, "hi", discordapi.BotID)
	p.answered(onServer, 1)
	if len(p.worker.order) != 1 || p.worker.keys[alice] != 1 {
		t.Errorf("delivered %v to %v", p.worker.order, p.worker.keys)
	}
}

// TestLongReply: a reply is cut into messages that Discord takes, within its limits.
func TestLongReply(t *testing.T) {
	p := newPlace(t, discordapi.Options{Limit: 2, Window: 100 * time.Millisecond}, "fixed:me", alice)
	long := strings.Repeat("word ", 900) + "\n" + strings.Repeat("😀", 1500)
	p.worker.turn = func(asked) (answer, time.Duration) { return answer{Reply: long}, 0 }
	p.open()
	p.ready()
	p.api.Write(direct, alice, "tell me")
	p.answered(direct, 4)
	fold := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	if got := fold(strings.Join(p.texts(direct), " ")); strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(fold(long), " ", "") {
		t.Errorf("sent %d messages with %d bytes of %d", len(p.texts(direct)), len(got), len(long))
	}
	p.worker.set(func() {
		p.worker.turn = func(asked) (answer, time.Duration) { return answer{Reply: strings.Repeat("x", 100_000)}, 0 }
	})
	had := len(p.texts(direct))
	p.api.Write(direct, alice, "more")
	p.answered(direct, had+20)
	if got := p.texts(direct)[had:]; len(got) != 20 || !strings.HasSuffix(got[19], "too long for this chat)") {
		t.Errorf("%d messages, the last %q", len(got), got[len(got)-1])
	}
	if c := p.api.Counts(); c.Hammered > 0 {
		t.Errorf("%+v", c)
	}
}

// TestLimited: where Discord asks to wait, that is done.
func TestLimited(t *testing.T) {
	p := newPlace(t, discordapi.Options{}, "fixed:me", alice)
	n := 0
	p.api.Hook = func(method, path string) discordapi.Fault {
		if method == http.MethodPost && strings.HasSuffix(path, "/messages") {
			if n++; n%2 == 1 {
				return discordapi.TooMany
			}
		}
		return discordapi.None
	}
	p.open()
	p.ready()
	for range 3 {
		p.api.Write(direct, alice, "x")
	}
	p.answered(direct, 3)
	if c := p.api.Counts(); c.Hammered > 0 || c.Limited != 3 {
		t.Errorf("%+v", c)
	}
}

// TestNothingToSay: no reply is none, and a failure is told.
func TestNothingToSay(t *testing.T) {
	p := newPlace(t, discordapi.Options{}, "fixed:me", alice)
	p.worker.turn = func(m asked) (answer, time.Duration) {
		if m.Content == "fail" {
			return answer{Error: "no model"}, 0
		}
		return answer{}, 0
	}
	p.open()
	p.ready()
	p.api.Write(direct, alice, "quiet")
	p.api.Write(direct, alice, "fail")
	p.answered(direct, 1)
	if got := p.texts(direct); !slices.Equal(got, []string{"Your assistant could not answer: no model"}) {
		t.Errorf("sent %q", got)
	}
}

// TestCutOff: what is written while the connection is cut in whatever way is answered, once
// and in order.
func TestCutOff(t *testing.T) {
	p := newPlace(t, discordapi.Options{Heartbeat: 300 * time.Millisecond}, mvm.KeyFromChat, alice)
	p.open()
	p.ready()
	var want []string
	write := func(text string) {
		want = append(want, "heard: "+text)
		p.api.Write(direct, alice, text)
	}
	write("first")
	p.answered(direct, 1)
	for name, cut := range map[string]func(){
		"dropped": p.api.Drop, "asked to reconnect": p.api.Reconnect, "invalid session": p.api.Invalidate,
		"sequence": func() { p.api.CloseWith(4007) }, "timeout": func() { p.api.CloseWith(4009) }, "unknown": func() { p.api.CloseWith(4000) },
		"away": func() { p.api.CloseWith(1001) }, "forgotten": func() { p.api.ForgetSession(); p.api.Drop() },
		"restart": p.open, "down": func() {
			p.api.SetDown(true)
			write("written while down")
			p.api.SetDown(false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			p.t = t
			cut()
			write(name + " 1")
			write(name + " 2")
			p.answered(direct, len(want))
			if got := p.texts(direct); !slices.Equal(got, want) {
				t.Fatalf("sent %q, want %q", got, want)
			}
			p.ready()
		})
	}
	if c := p.api.Counts(); c.Resumed < 3 || c.Missed > 0 {
		t.Errorf("%+v", c)
	}
}

// TestHistory: a chat's history is read to its end, also where it has more than a page.
func TestHistory(t *testing.T) {
	p := newPlace(t, discordapi.Options{}, "fixed:me", alice, onServer)
	p.open()
	p.ready()
	for _, c := range []string{direct, onServer} {
		p.api.Write(c, alice, "first", discordapi.BotID)
		p.answered(c, 1)
	}
	p.close()
	for n := range 230 {
		p.api.Write(direct, mallory, "noise")
		if n%20 == 0 {
			p.api.Write(direct, alice, fmt.Sprint("missed ", n))
		}
	}
	p.api.Write(onServer, alice, "missed", discordapi.BotID)
	p.open()
	p.answered(direct, 13)
	p.answered(onServer, 2)
	got := p.texts(direct)[1:]
	for n, text := range got {
		if want := fmt.Sprint("heard: missed ", n*20); text != want {
			t.Errorf("%q, want %q", text, want)
		}
	}
	if len(got) != 12 {
		t.Errorf("%d of 12: %q", len(got), got)
	}
}

// TestMissedFirst: what was missed is kept before what comes meanwhile, also where history
// can't be read at first and the session is resumed.
func TestMissedFirst(t *testing.T) {
	p := newPlace(t, discordapi.Options{}, "fixed:me", alice)
	p.open()
	p.ready()
	p.api.Write(direct, alice, "1")
	p.answered(direct, 1)
	p.close()
	p.api.Write(direct, alice, "2")
	var once sync.Once
	p.api.Hook = func(method, path string) (f discordapi.Fault) {
		if method == http.MethodGet && path == "/channels/"+direct {
			once.Do(func() {
				p.api.Write(direct, alice, "3")
				f = discordapi.Refuse
			})
		}
		return f
	}
	p.open()
	p.answered(direct, 3)
	if got := p.texts(direct); !slices.Equal(got, []string{"heard: 1", "heard: 2", "heard: 3"}) {
		t.Errorf("sent %q", got)
	}
	if c := p.api.Counts(); c.Resumed == 0 {
		t.Errorf("%+v", c)
	}
}

// TestReplyOnce: a reply whose sending failed half way is not sent twice, not even after
// Discord has forgotten the nonce and the gateway what it did.
func TestReplyOnce(t *testing.T) {
	p := newPlace(t, discordapi.Options{}, "fixed:me", alice)
	p.worker.turn = func(m asked) (answer, time.Duration) {
		return answer{Reply: strings.Repeat("a ", 1000) + "\n" + strings.Repeat("b ", 1000) + "\nc"}, 0
	}
	sends := 0
	p.api.Hook = func(method, path string) discordapi.Fault {
		if method == http.MethodPost && strings.HasSuffix(path, "/messages") {
			switch sends++; sends {
			case 2:
				return discordapi.Lose
			case 3, 4:
				return discordapi.Refuse
			}
		}
		return discordapi.None
	}
	p.open()
	p.ready()
	p.api.Write(direct, alice, "x")
	p.until("two parts are sent", func() bool { return len(p.texts(direct)) >= 2 })
	p.api.ForgetNonces()
	p.open()
	p.answered(direct, 3)
	if got := p.texts(direct); len(got) != 3 || got[0][0] != 'a' || got[1][0] != 'b' || got[2] != "c" {
		t.Errorf("sent %d: %.20q", len(got), got)
	}
}

// TestToken: a revoked token is told and not tried again and again; a new one is in force at
// once, with the channel's new configuration.
func TestToken(t *testing.T) {
	p := newPlace(t, discordapi.Options{}, "fixed:me", alice)
	p.open()
	p.ready()
	p.api.Write(direct, alice, "before")
	p.answered(direct, 1)
	p.api.SetToken("another")
	p.until("told", func() bool {
		return strings.Contains(p.bot.Status().Detail, "refuses the token; set the secret discord_token")
	})
	before := p.api.Counts()
	p.api.Write(direct, alice, "meanwhile")
	time.Sleep(200 * time.Millisecond) // the pause is longer
	if now := p.api.Counts(); now.Requests-before.Requests > 1 || now.Identified != before.Identified {
		t.Errorf("asked on: %+v, %+v", before, now)
	}
	p.open() // it is refused before it connects
	p.until("told", func() bool { return strings.Contains(p.bot.Status().Detail, "refuses the token") })
	before = p.api.Counts()
	time.Sleep(200 * time.Millisecond) // the pause is longer
	if now := p.api.Counts(); now.Requests-before.Requests > 1 || now.Identified != before.Identified {
		t.Errorf("asked on: %+v, %+v", before, now)
	}
	p.c.Token = []byte("another")
	p.open()
	p.ready()
	p.answered(direct, 2)
}

// TestDenied: codes that only a person can help with are told, and not tried again and again.
func TestDenied(t *testing.T) {
	for code, want := range map[int]string{4014: "disallowed intents", 4013: "Privileged Gateway Intents", 4011: "too many servers", 4012: "newer mvm", 4004: "refuses the token"} {
		p := newPlace(t, discordapi.Options{}, "fixed:me", alice)
		p.api.Deny(code)
		p.open()
		p.until("told", func() bool {
			s := p.bot.Status()
			return s.State == chat.StateFailing && strings.Contains(s.Detail, want)
		})
		time.Sleep(100 * time.Millisecond) // the pause is longer
		if n := p.api.Counts().Identified; n != 1 {
			t.Errorf("%d: tried %d times", code, n)
		}
		p.close()
	}
	p := newPlace(t, discordapi.Options{}, "fixed:me", alice)
	p.c.Token = nil
	p.open()
	p.until("told", func() bool { return strings.Contains(p.bot.Status().Detail, "no secret discord_token") })
	if c := p.api.Counts(); c.Requests > 0 {
		t.Errorf("without a token: %+v", c)
	}
}

// TestHeartbeat: a connection on which heartbeats are not answered is given up.
func TestHeartbeat(t *testing.T) {
	p := newPlace(t, discordapi.Options{Heartbeat: 3 * time.Second}, "fixed:me", alice)
	p.open()
	p.ready()
	time.Sleep(5 * time.Second) // a client that sends none is cut off after 4.5 s
	if c := p.api.Counts(); c.Missed > 0 || c.Identified != 1 {
		t.Errorf("heartbeats were missed: %+v", c)
	}
	p.api.Mute(true)
	p.until("it connects again", func() bool { return p.api.Counts().Resumed > 0 })
	p.api.Mute(false)
	p.api.Write(direct, alice, "x")
	p.answered(direct, 1)
	if c := p.api.Counts(); c.Missed > 0 {
		t.Errorf("%+v", c)
	}
}

// TestFlood: of a chat that sends too much some is refused, which is told once, and others
// are answered.
func TestFlood(t *testing.T) {
	p := newPlace(t, discordapi.Options{}, mvm.KeyFromChat, "*")
	p.worker.down = errDown
	p.open()
	p.ready()
	other := "200000000000000004"
	p.api.AddChannel(other, "")
	for n := range 150 {
		p.api.Write(direct, alice, fmt.Sprint(n))
	}
	p.api.Write(other, alice, "hello")
	p.until("refusals", func() bool { return p.worker.count(guestproto.MessageRefused) == 50 && len(p.kept()) == 101 })
	p.worker.set(func() { p.worker.down = nil })
	p.answered(other, 1)
	p.answered(direct, 101)
	told := 0
	for _, text := range p.texts(direct) {
		if strings.Contains(text, "many messages at once") {
			told++
		}
	}
	if told != 1 {
		t.Errorf("told %d times", told)
	}
}

// TestStop: a command passes a message that waits for the turn under way.
func TestStop(t *testing.T) {
	p := newPlace(t, discordapi.Options{}, "fixed:me", alice)
	p.worker.turn = func(m asked) (answer, time.Duration) {
		if m.Content == "stop" || m.Content == "/status" {
			p.worker.busy = false
			return answer{Reply: "done"}, 0
		}
		p.worker.busy = true
		return answer{Reply: m.Content}, time.Hour
	}
	p.open()
	p.ready()
	long := p.api.Write(direct, alice, "long")
	p.until("the turn", func() bool { p.worker.mu.Lock(); defer p.worker.mu.Unlock(); return p.worker.busy })
	p.api.Write(direct, alice, "next")
	p.api.Write(direct, alice, "stop")
	p.until("stopped", func() bool { return len(p.texts(direct)) == 1 })
	if got := p.texts(direct); got[0] != "done" {
		t.Errorf("sent %q", got)
	}
	p.worker.set(func() {
		p.worker.memory[long] = answer{Reply: "cut"}
		close(p.worker.running[long])
		delete(p.worker.running, long)
	})
}

// TestPoison: a message to which Discord takes no answer is set aside, and told by the inbox.
func TestPoison(t *testing.T) {
	p := newPlace(t, discordapi.Options{}, "fixed:me", alice)
	gone := "200000000000000005"
	p.api.AddChannel(gone, "")
	p.worker.busy = true
	p.open()
	p.ready()
	p.api.Write(gone, alice, "x")
	p.until("kept", func() bool { return len(p.kept()) == 1 })
	p.api.RemoveChannel(gone)
	p.worker.set(func() { p.worker.busy = false })
	p.until("set aside", func() bool { e := p.kept(); return len(e) == 1 && e[0].Aside })
	if e := p.kept()[0]; !strings.Contains(e.Why, "Discord does not take the answer: Discord answered 404") {
		t.Errorf("%+v", e)
	}
	p.api.Write(direct, alice, "y")
	p.until("the next", func() bool { return len(p.texts(direct)) == 1 })
}
