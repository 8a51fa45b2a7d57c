package chat_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mvm/internal/guestproto"
	"mvm/test/botapi"
)

// steps of a message, at which something is killed.
var steps = []string{"acquire", "preflight", "posted", "answered 200", "accepted", "synced", "confirm", "confirmed", "model", "send", "sent"}

// victims are killed at each step; a machine loses what its disk has not synced, and the host's
// agent does not answer for a second.
var victims = []string{"gateway", "openclaw", "machine"}

type kill struct {
	what, step string
	at         time.Time
	begun      bool // OpenClaw is waited for where it does not run yet
}

// plan is what is killed where: everything at every step first, in a random order, and one
// victim after the other.
func plan(r *rand.Rand, n int) []kill {
	by := map[string][]kill{}
	for _, what := range victims {
		for _, i := range r.Perm(len(steps)) {
			by[what] = append(by[what], kill{what: what, step: steps[i]})
		}
	}
	all := []kill{}
	for i := range steps {
		for _, what := range victims {
			all = append(all, by[what][i])
		}
		if i%4 == 3 {
			all = append(all, kill{what: "agent", step: []string{"acquire", "accepted", "synced"}[r.IntN(3)]})
		}
	}
	for len(all) < n {
		all = append(all, kill{what: victims[r.IntN(len(victims))], step: "any"})
	}
	return all[:n]
}

// asked is a question to the model.
type asked struct {
	key string
	at  time.Time
}

// chaos writes messages and kills.
type chaos struct {
	*host
	r *rand.Rand

	mu      sync.Mutex
	armed   *kill
	fired   chan kill
	done    []kill
	asks    []asked
	written map[string]time.Time // by key
	order   []string
	restart sync.WaitGroup
}

func newChaos(t *testing.T, seed uint64) *chaos {
	c := chaosOn(t, newHost(t), seed)
	c.ready()
	return c
}

func chaosOn(t *testing.T, h *host, seed uint64) *chaos {
	c := &chaos{host: h, r: rand.New(rand.NewPCG(seed, 1)), fired: make(chan kill, 1), written: map[string]time.Time{}}
	t.Cleanup(c.restart.Wait)
	c.hear = func(said string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, key := range keysIn(said) {
			c.asks = append(c.asks, asked{key, time.Now()})
		}
		if len(keysIn(said)) == 0 {
			c.t.Logf("the model is asked without a key: %.200q", said)
		}
	}
	c.step = c.at
	return c
}

// at kills what is to be killed at the step.
func (c *chaos) at(step string) bool {
	c.mu.Lock()
	k := c.armed
	if k == nil || k.step != step && k.step != "any" {
		c.mu.Unlock()
		return false
	}
	c.armed = nil
	k.at = time.Now()
	c.done = append(c.done, *k)
	c.mu.Unlock()
	c.kill(*k)
	c.fired <- *k
	return true
}

func (c *chaos) kill(k kill) {
	switch k.what {
	case "gateway":
		c.killGateway()
		c.restart.Go(c.startGateway)
	case "openclaw":
		pid := c.openClaw()
		for began := time.Now(); k.begun && pid == 0 && time.Since(began) < patience; pid = c.openClaw() {
			time.Sleep(100 * time.Millisecond)
		}
		if pid > 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		} else {
			c.t.Logf("OpenClaw was down already when it was to be killed at %s", k.step)
		}
	case "machine":
		if err := c.powerLoss(); err != nil {
			c.t.Errorf("cut the worker's power: %v", err)
		}
	case "agent":
		c.away.Store(true)
		c.restart.Go(func() {
			time.Sleep(time.Second)
			c.away.Store(false)
		})
	}
}

// killer kills by the plan. After most kills it waits until all is up again.
func (c *chaos) killer(all []kill, stop <-chan struct{}) {
	began := time.Now()
	for _, k := range all {
		c.mu.Lock()
		pause, wait := time.Duration(0), c.r.IntN(5) > 0
		if k.step == "any" {
			pause = time.Duration(c.r.IntN(3000)) * time.Millisecond
		}
		c.mu.Unlock()
		select {
		case <-stop:
			return
		case <-time.After(pause):
		}
		c.mu.Lock()
		c.armed = &k
		c.mu.Unlock()
		select {
		case <-stop:
			return
		case k = <-c.fired:
			c.t.Logf("kill %d of %d after %s: %s at %s", c.kills(), len(all), time.Since(began).Round(100*time.Millisecond), k.what, k.step)
		}
		if wait {
			c.up(stop)
		}
	}
}

// up waits until the worker takes messages again, for a while.
func (c *chaos) up(stop <-chan struct{}) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		resp, err := c.askGuest(context.Background(), guestproto.Request{Preflight: true})
		if err == nil && !resp.PreflightAck.Held {
			return
		}
		select {
		case <-stop:
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (c *chaos) kills() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.done)
}

// write writes the message of the number.
func (c *chaos) write(n int) {
	chat, key := c.next(n)
	c.api.Write(chat, chat, key+" says hello")
}

// next notes that the message of the number is written.
func (c *chaos) next(n int) (chat int64, key string) {
	chat = int64(100 + n%chats)
	key = fmt.Sprintf("m-%d-%03d", chat, n/chats)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.written[key] = time.Now()
	c.order = append(c.order, key)
	return chat, key
}

// answers are the texts of the bot by key, and what mvm itself has told.
func (c *chaos) answers() (by map[string]int, told []botapi.Sent) {
	by = map[string]int{}
	for _, s := range c.api.Sent() {
		keys := keysIn(s.Text)
		for _, key := range keys {
			if strings.HasPrefix(key, fmt.Sprintf("m-%d-", s.Chat)) {
				by[key]++
			}
		}
		if len(keys) == 0 {
			told = append(told, s)
		}
	}
	return by, told
}

// TestKills: whatever is killed at whatever step of a message, and whatever a disk loses by
// that, OpenClaw gets every message, each chat's in order, and whoever has no answer is told so.
// What is answered twice, or told for nothing, has its reason.
func TestKills(t *testing.T) {
	t.Parallel()
	c := newChaos(t, *seedFlag)
	messages, all := *messagesFlag, plan(rand.New(rand.NewPCG(*seedFlag, 2)), *killsFlag)
	t.Logf("seed %d: %d messages in %d chats, %d kills", *seedFlag, messages, chats, len(all))
	stop := make(chan struct{})
	var killing sync.WaitGroup
	killing.Go(func() { c.killer(all, stop) })
	began := time.Now()
	for n := range messages {
		if *withinFlag > 0 && time.Since(began) > *withinFlag {
			t.Logf("%s have passed: it ends with %d messages", *withinFlag, n)
			break
		}
		c.until(fmt.Sprintf("message %d may be written", n), func() error {
			if k := c.kills(); len(c.api.Pending()) > 5 || k < n*len(all)/messages-1 {
				return fmt.Errorf("%d wait, %d kills", len(c.api.Pending()), k)
			}
			return nil
		})
		if c.r.IntN(6) == 0 {
			_ = c.sleep() // busy or not
		}
		c.write(n)
	}
	c.until("all kills are made, or all messages delivered", func() error {
		if n := len(c.api.Pending()); n > 0 && c.kills() < len(all) && (*withinFlag == 0 || time.Since(began) < *withinFlag) {
			return fmt.Errorf("%d wait, %d kills", n, c.kills())
		}
		return nil
	})
	close(stop)
	killing.Wait()
	c.check(began)
}

// check compares what OpenClaw and the chats got with what was written.
func (c *chaos) check(began time.Time) {
	c.until("all are confirmed", func() error {
		if n := len(c.api.Pending()); n > 0 {
			return fmt.Errorf("%d wait", n)
		}
		return nil
	})
	c.ready()
	c.quiet()
	c.mu.Lock()
	defer c.mu.Unlock()
	by, told := c.answers()
	first, lost := map[string][]string{}, 0
	for _, a := range c.asks {
		if chat := a.key[:5]; !slices.Contains(first[chat], a.key) {
			first[chat] = append(first[chat], a.key)
		}
	}
	for chat, keys := range first {
		if !slices.IsSorted(keys) {
			c.t.Errorf("chat %s came in the order %v", chat, keys)
		}
	}
	twice, unanswered, silent, left := 0, 0, 0, slices.Clone(told)
	for _, key := range c.order {
		switch n := by[key]; {
		case !slices.ContainsFunc(c.asks, func(a asked) bool { return a.key == key }):
			lost++
			c.t.Errorf("%s is lost: OpenClaw never asked the model about it; its sender was told: %t; %s", key, c.wasTold(key, &left), c.story(key))
		case n == 0:
			unanswered++
			if !c.wasTold(key, &left) {
				silent++
				c.t.Errorf("%s has no answer, and its sender was told nothing: %s", key, c.story(key))
				continue
			}
			c.t.Logf("%s has no answer, as its sender was told: %s", key, c.story(key))
		case n > 1:
			twice++
			c.t.Logf("%s is answered %d times: %s", key, n, c.story(key))
		}
	}
	texts := map[string]int{}
	for _, s := range told {
		texts[s.Text]++
	}
	c.t.Logf("seed %d, %s: %d messages, %d kills %v: %d lost, %d answered twice, %d unanswered, of which %d were told nothing; told: %v", *seedFlag, time.Since(began).Round(time.Second),
		len(c.order), len(c.done), tally(c.done), lost, twice, unanswered, silent, texts)
}

// wasTold reports that mvm has told the message's chat something since it was written, and
// takes that out of what is left: each text is for one message.
func (c *chaos) wasTold(key string, left *[]botapi.Sent) bool {
	n := slices.IndexFunc(*left, func(s botapi.Sent) bool {
		return strings.HasPrefix(key, fmt.Sprintf("m-%d-", s.Chat)) && s.At.After(c.written[key])
	})
	if n < 0 {
		return false
	}
	*left = slices.Delete(*left, n, n+1)
	return true
}

// quiet waits until the bot has sent nothing for a while.
func (c *chaos) quiet() {
	n, since := -1, time.Now()
	c.until("nothing more is sent", func() error {
		if now := len(c.api.Sent()); now != n {
			n, since = now, time.Now()
		}
		if time.Since(since) < 10*time.Second {
			return fmt.Errorf("%d are sent", n)
		}
		return nil
	})
}

// story says what became of a message, and what was killed then.
func (c *chaos) story(key string) string {
	type event struct {
		at   time.Time
		text string
	}
	w := c.written[key]
	events := []event{{w, "written"}}
	last := w
	for _, a := range c.asks {
		if a.key == key {
			events, last = append(events, event{a.at, "asked"}), a.at
		}
	}
	for _, s := range c.api.Sent() {
		if slices.Contains(keysIn(s.Text), key) {
			events, last = append(events, event{s.At, "sent"}), s.At
		}
	}
	for _, k := range c.done {
		if k.at.After(w) && k.at.Before(last.Add(20*time.Second)) {
			events = append(events, event{k.at, "KILL " + k.what + " at " + k.step})
		}
	}
	slices.SortFunc(events, func(a, b event) int { return a.at.Compare(b.at) })
	var out []string
	for _, e := range events {
		out = append(out, fmt.Sprintf("+%.2fs %s", e.at.Sub(w).Seconds(), e.text))
	}
	return strings.Join(out, ", ")
}

func tally(all []kill) map[string]int {
	n := map[string]int{}
	for _, k := range all {
		n[k.what]++
	}
	return n
}
