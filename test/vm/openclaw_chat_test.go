package vm_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/testenv"
	"mvm/test/botapi"
)

// turnPatience bounds turns: on a busy machine without KVM one may take a minute.
const turnPatience = 10 * time.Minute

// testBot: what the bot's user writes wakes the assistant and is answered by it, in order and
// once, and it never has the real token.
func (o *openClaw) testBot() {
	before := o.process()
	o.t.(*testing.T).Run("strangers", func(t *testing.T) { o.on(t).testStranger() })
	o.t.(*testing.T).Run("a burst", func(t *testing.T) { o.on(t).testBurst() })
	o.t.(*testing.T).Run("the token", func(t *testing.T) { o.on(t).testBotToken() })
	o.do(o.id, mvm.OpWake)
	if now := o.process(); now != before {
		o.t.Errorf("OpenClaw is process %s, was %s", now, before)
	}
	if slices.ContainsFunc(o.bot.Sent(), func(s botapi.Sent) bool { return strings.Contains(s.Text, "drink water") }) {
		o.t.Error("the demo's reminder came again")
	}
}

// serveBot serves the Bot API for the demo's bot.
func (o *openClaw) serveBot(subnet netip.Prefix) {
	o.t.Helper()
	token, err := os.ReadFile(o.path("demo/secrets/telegram_token"))
	must(o.t, err)
	o.bot, o.botToken = botapi.New(string(token), nil), string(token)
	o.bot.Continue(5000, 5000) // behind the demo's
	o.serve(subnet, botPort, o.bot)
	o.t.Cleanup(o.bot.Close)
}

// rest puts the assistant to sleep, as soon as it has nothing to do.
func (o *openClaw) rest() {
	o.t.Helper()
	testenv.Eventually(o.t, patience, func() error {
		_, err := o.try(o.id, mvm.OpSleep)
		return err
	})
}

// answered waits until the bot has sent a message with each of the texts, and nothing waits at
// the Bot API. It returns what the bot sent since then that has one of them.
func (o *openClaw) answered(since int, texts ...string) (got []botapi.Sent) {
	o.t.Helper()
	began := time.Now()
	defer func() {
		if o.t.Failed() {
			o.t.Logf("OpenClaw:\n%s", o.said())
		}
	}()
	testenv.Eventually(o.t, turnPatience, func() error {
		got = nil
		missing := slices.Clone(texts)
		for _, s := range o.bot.Sent()[since:] {
			if n := slices.IndexFunc(texts, func(text string) bool { return strings.Contains(s.Text, text) }); n >= 0 {
				got = append(got, s)
				missing = slices.DeleteFunc(missing, func(text string) bool { return text == texts[n] })
			}
		}
		if left := len(o.bot.Pending()); len(missing) > 0 || left > 0 {
			return fmt.Errorf("not answered: %q; %d updates wait; sent %+v; the gateway says %+v", missing, left, o.bot.Sent()[since:], o.only("gateways").Health)
		}
		return nil
	})
	o.t.Logf("%q: answered after %s", texts, time.Since(began).Round(time.Millisecond))
	return got
}

// testBurst: messages that come at once, to an assistant that sleeps, wake it and are answered
// one after the other, each once. Typing is shown before.
func (o *openClaw) testBurst() {
	o.rest()
	texts := []string{"first of two", "second of two"}
	since, typed, began := len(o.bot.Sent()), len(o.bot.Calls("sendChatAction")), time.Now()
	for _, text := range texts {
		o.bot.Write(7, 7, text)
	}
	testenv.Eventually(o.t, patience, func() error {
		if len(o.bot.Calls("sendChatAction")) == typed {
			return errors.New("no sign of typing")
		}
		return nil
	})
	o.t.Logf("typing after %s", o.bot.Calls("sendChatAction")[typed].At.Sub(began).Round(time.Millisecond))
	got := o.answered(since, texts...)
	for n, s := range got {
		if n >= len(texts) || !strings.Contains(s.Text, texts[n]) {
			o.t.Fatalf("the answers are %+v, want one to each of %q, in order", got, texts)
		}
	}
	if i := o.get(o.id); i.Last.By != mvm.ParseAsker("channel:telegram") || i.Last.Kind != "warm" {
		o.t.Errorf("it was woken by %s, %s", i.Last.By, i.Last.Kind)
	}
}

// testStranger: who is not allowed does not wake it.
func (o *openClaw) testStranger() {
	o.rest()
	since := len(o.bot.Sent())
	o.bot.Write(8, 8, "let me in")
	o.bot.Write(-100, 7, "let us in") // a group that is not allowed
	o.answered(since)
	if i := o.get(o.id); i.State != mvm.StateSleeping {
		o.t.Errorf("it is %s, by %s", i.State, i.Last.By)
	}
}

// testBotToken: the token is rotated without OpenClaw noticing. The real one, old or new, is in
// no file of the assistant, neither awake nor asleep, and in no environment.
func (o *openClaw) testBotToken() {
	id, first, _ := strings.Cut(o.botToken, ":")
	second := strings.ToLower(rand.Text())
	o.bot.SetToken(id + ":" + second)
	_, err := o.client.SetSecrets(o.ctx(), "alice", map[string][]byte{"telegram_token": []byte(id + ":" + second)})
	must(o.t, err)
	since := len(o.bot.Sent())
	o.bot.Write(7, 7, "with another token")
	o.answered(since, "with another token")
	if i := o.get(o.id); i.Last.Kind != "warm" || i.Untold != "" {
		o.t.Errorf("the wake was %s, untold %q", i.Last.Kind, i.Untold)
	}
	out, err := o.exec(o.id, "/bin/bash", "-c", "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep '"+id+":' || true")
	if err != nil || strings.Contains(out, first) || strings.Contains(out, second) {
		o.t.Errorf("processes have the real token in their environment: %v", err)
	}
	placeholder, err := o.exec(o.id, "/bin/bash", "-c", "grep -o '"+id+":[A-Za-z0-9_-]*' /run/secrets/channels/telegram.json")
	must(o.t, err)
	st, err := o.client.Stats(o.ctx(), mvm.Address{Instance: o.id})
	must(o.t, err)
	hits, err := searchMemory(st.PID, []string{placeholder, first, second})
	if err != nil || !slices.Equal(hits, []string{placeholder}) {
		o.t.Errorf("in the memory of the assistant there are %d of the placeholder and the two real tokens, %v, want the placeholder alone", len(hits), err)
	}
	o.rest()
	for name, hits := range holding(o.t, filepath.Join(o.data, "instances", o.id), []string{first, second}) {
		o.t.Errorf("%s of the assistant, which sleeps, has %d of its real tokens", name, len(hits))
	}
}
