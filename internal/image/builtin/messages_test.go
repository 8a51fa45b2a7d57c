package builtin_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mvm/internal/testenv"
)

// channel writes the file of a Discord channel, and returns its folder. A port is free that
// was free just before.
func (c *control) channel(dir string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	c.chat = "http://" + l.Addr().String() + "/chat"
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		c.t.Fatal(err)
	}
	channels := filepath.Join(dir, "channels")
	text := fmt.Sprintf(`{"name":"discord","kind":"discord","port":%d,"path":"/chat","secret":"s3cret","allow":["7"]}`, port)
	if err := os.MkdirAll(channels, 0o700); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(channels, "discord.json"), []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return channels
}

// reply is what control.mjs answers to a message.
type reply struct {
	status       int
	Reply, Error string
}

func (r reply) String() string { return fmt.Sprintf("%d %q %q", r.status, r.Reply, r.Error) }

func (c *control) post(url, secret, body string) (r reply) {
	c.t.Helper()
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+secret)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || json.Unmarshal(b, &r) != nil {
		c.t.Fatalf("answered %q, %v", b, err)
	}
	r.status = resp.StatusCode
	return r
}

// ask hands a message over, and again while it has no reply.
func (c *control) ask(message string) (r reply) {
	c.t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		if r = c.post(c.chat, "s3cret", message); r.status != 202 || time.Now().After(end) {
			return r
		}
	}
}

func words(id, author, text string) string {
	return fmt.Sprintf(`{"id":%q,"channel_id":"55","timestamp":%q,"content":%q,"author":{"id":%q,"username":"bob"}}`, id, time.Now().UTC().Format(time.RFC3339), text, author)
}

func said(text, stop string) map[string]any {
	return map[string]any{"role": "assistant", "stopReason": stop, "content": []any{map[string]any{"type": "text", "text": text}}}
}

func wrote(key, text string, at time.Time) map[string]any {
	return map[string]any{"role": "user", "idempotencyKey": key, "content": text, "timestamp": at.UnixMilli()}
}

// A message has one turn, whose reply its gateway gets however often it asks; who is not the
// owner may not change settings.
func messagesAreAnsweredOnce(t *testing.T, c *control) {
	final := func(id, text string) {
		c.gw.tell("chat", map[string]any{"runId": id, "state": "final", "message": said(text, "stop")})
	}
	c.gw.set("chat.history", map[string]any{"messages": []any{}})
	c.gw.set("chat.send", func() any {
		go final("discord-1", "hi")
		return map[string]any{"status": "started"}
	})
	for range 3 {
		if r := c.ask(words("1", "7", "hello")); r.status != 200 || r.Reply != "hi" {
			t.Fatalf("answered %s", r)
		}
	}
	want := `{"sessionKey":"agent:main:discord:direct:7","message":"hello","idempotencyKey":"discord-1"}`
	if got := c.gw.called("chat.send"); len(got) != 1 || got[0] != want {
		t.Errorf("sent %v, want %s once", got, want)
	}
	// A turn that takes longer than a request.
	c.gw.set("chat.send", map[string]any{"status": "started"})
	if r := c.post(c.chat, "s3cret", words("2", "8", "think")); r.status != 202 {
		t.Errorf("while it thinks: %s", r)
	}
	final("discord-2", "thought")
	if r := c.ask(words("2", "8", "think")); r.Reply != "thought" {
		t.Errorf("then: %s", r)
	}
	scopes := c.gw.called("connect")
	if len(scopes) != 2 || !strings.Contains(scopes[0], "operator.admin") || strings.Contains(scopes[1], "operator.admin") {
		t.Errorf("connected as %v", scopes)
	}
	// A server's channel is a session of its own, in which it shows who writes.
	c.gw.set("chat.send", map[string]any{"status": "started"})
	c.post(c.chat, "s3cret", `{"id":"3","channel_id":"55","guild_id":"66","content":"<@9> hi <@5>","author":{"id":"7","username":"bob"},
		"mentions":[{"id":"9","username":"bot","bot":true},{"id":"5","username":"eve"}],"referenced_message":{"content":"old","author":{"username":"ann"}},
		"attachments":[{"filename":"a.png","content_type":"image/png","url":"https://cdn/a.png"}]}`)
	got := c.gw.called("chat.send")
	want = `{"sessionKey":"agent:main:discord:channel:55","message":"[In reply to ann: old]\nbob: hi @eve\n[Attached: a.png (image/png) https://cdn/a.png]","idempotencyKey":"discord-3"}`
	if got[len(got)-1] != want {
		t.Errorf("sent %s, want %s", got[len(got)-1], want)
	}
	c.gw.tell("chat", map[string]any{"runId": "discord-3", "state": "error", "errorMessage": "no model"})
	if r := c.ask(words("3", "7", "x")); r.Error != "no model" {
		t.Errorf("a failure: %s", r)
	}
	c.gw.set("chat.send", map[string]any{"ok": true, "aborted": true})
	if r := c.ask(words("4", "7", "stop")); r.Reply != "Stopped." {
		t.Errorf("stop: %s", r)
	}
}

// After a crash the history says what became of a message.
func messagesAfterACrash(t *testing.T, c *control) {
	now := time.Now()
	c.gw.set("chat.history", map[string]any{"messages": []any{wrote("discord-1:user", "q", now), said("let me see", "toolUse"), said("a", "stop"), wrote("discord-9:user", "other", now), said("no", "stop")}})
	if r := c.ask(words("1", "7", "q")); r.status != 200 || r.Reply != "a" || len(c.gw.called("chat.send")) != 0 {
		t.Errorf("answered before: %s, sent %v", r, c.gw.called("chat.send"))
	}
	// OpenClaw goes on with the turn by itself.
	const goOn = "[System] Your previous turn was interrupted by a gateway restart"
	c.gw.set("gateway.restart.preflight", map[string]any{"safe": false})
	c.gw.set("chat.history", map[string]any{"messages": []any{wrote("discord-2:user", "q", now)}})
	if r := c.post(c.chat, "s3cret", words("2", "7", "q")); r.status != 202 {
		t.Errorf("while it is taken up: %s", r)
	}
	c.gw.set("chat.history", map[string]any{"messages": []any{wrote("discord-2:user", "q", now), wrote("x", goOn, now), said("after all", "stop")}})
	c.gw.set("gateway.restart.preflight", map[string]any{"safe": true})
	if r := c.ask(words("2", "7", "q")); r.Reply != "after all" || len(c.gw.called("chat.send")) != 0 {
		t.Errorf("taken up: %s, sent %v", r, c.gw.called("chat.send"))
	}
	// The history has no more of the message than the request to go on.
	c.gw.set("chat.history", map[string]any{"messages": []any{wrote("discord-8:user", "old", now.Add(-time.Hour)), said("old", "stop"), wrote("y", goOn, now), said("late", "stop")}})
	c.gw.set("chat.send", func() any {
		go c.gw.tell("chat", map[string]any{"runId": "discord-3", "state": "error", "errorMessage": "Error: session changed before durable user-turn admission"})
		return map[string]any{"status": "started"}
	})
	if r := c.ask(words("3", "7", "q")); r.Reply != "late" {
		t.Errorf("found by the request to go on: %s", r)
	}
	// A lost connection says nothing about the message.
	c.gw.set("chat.history", map[string]any{"messages": []any{}})
	c.gw.set("chat.send", func() any { go c.gw.cut(); return map[string]any{"status": "started"} })
	if r := c.ask(words("4", "7", "q")); r.status != 503 || !strings.Contains(r.Error, "lost") {
		t.Errorf("a lost connection: %s", r)
	}
	c.gw.set("chat.send", func() any {
		go c.gw.tell("chat", map[string]any{"runId": "discord-4", "state": "final", "message": said("here", "stop")})
		return map[string]any{"status": "started"}
	})
	testenv.Eventually(t, time.Minute, func() error {
		if r := c.ask(words("4", "7", "q")); r.Reply != "here" {
			return fmt.Errorf("after a lost connection: %s", r)
		}
		return nil
	})
}

// Others than the gateway, and what is no message, are refused; so is a message while
// OpenClaw holds still.
func onlyTheGateway(t *testing.T, c *control) {
	for name, one := range map[string]struct {
		url, secret, body string
		status            int
	}{
		"no secret":     {c.chat, "", words("1", "7", "x"), 401},
		"wrong secret":  {c.chat, "s3creT", words("1", "7", "x"), 401},
		"wrong path":    {c.chat + "2", "s3cret", words("1", "7", "x"), 404},
		"no JSON":       {c.chat, "s3cret", "{", 400},
		"no id":         {c.chat, "s3cret", words("x", "7", "x"), 400},
		"null":          {c.chat, "s3cret", "null", 400},
		"no author":     {c.chat, "s3cret", `{"id":"1","channel_id":"2"}`, 400},
		"much too long": {c.chat, "s3cret", words("1", "7", strings.Repeat("x", 600_000)), 413},
	} {
		if r := c.post(one.url, one.secret, one.body); r.status != one.status {
			t.Errorf("%s: %s, want %d", name, r, one.status)
		}
	}
	if a := c.suspend(); a.State != "ready" {
		t.Fatalf("%+v", a)
	}
	if r := c.ask(words("1", "7", "x")); r.status != 503 || !strings.Contains(r.Error, "holds still") {
		t.Errorf("while it holds still: %s", r)
	}
	if n := len(c.gw.called("chat.send")); n != 0 {
		t.Errorf("OpenClaw got %d", n)
	}
}
