package chat_test

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/png"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"mvm/test/botapi"
)

// Steps of the first message ever, whose worker has yet to be made and booted, and of a photo,
// which OpenClaw fetches.
var (
	firstSteps = []string{"acquire", "preflight", "posted", "answered 200", "synced", "confirmed", "model", "send"}
	photoSteps = []string{"posted", "getfile", "file", "model", "send"}
)

// scene is what becomes of a new assistant: what is killed with its first message, and what with
// a photo.
type scene struct{ first, photo kill }

// scenes have each victim killed at each step, in a random order but for the first one.
func scenes(r *rand.Rand, n int) (all []scene) {
	var firsts, photos []kill
	for _, what := range victims {
		for _, step := range firstSteps {
			if step != "acquire" || what == "gateway" { // there is no worker yet
				firsts = append(firsts, kill{what: what, step: step, begun: true})
			}
		}
		for _, step := range photoSteps {
			photos = append(photos, kill{what: what, step: step})
		}
	}
	r.Shuffle(len(firsts), func(i, j int) { firsts[i], firsts[j] = firsts[j], firsts[i] })
	r.Shuffle(len(photos), func(i, j int) { photos[i], photos[j] = photos[j], photos[i] })
	all = append(all, scene{kill{what: "openclaw", step: "model"}, kill{what: "openclaw", step: "file"}})
	for i := range firsts {
		all = append(all, scene{firsts[i], photos[i%len(photos)]})
	}
	return all[:min(n, len(all))]
}

// TestFirst: the first message ever, a photo, and a message with another one behind it are
// answered, once and in order, or their sender is told; whatever is killed meanwhile, and also
// where OpenClaw starts without its chats as it was killed three times within five minutes.
func TestFirst(t *testing.T) {
	if *scenesFlag == 0 {
		t.Skip("a new assistant takes minutes on a busy machine; `make proof-chat` runs it")
	}
	all := scenes(rand.New(rand.NewPCG(*seedFlag, 3)), *scenesFlag)
	for n, s := range all {
		t.Run(fmt.Sprintf("%s at %s, %s at %s", s.first.what, s.first.step, s.photo.what, s.photo.step), func(t *testing.T) {
			h := newUnborn(t)
			h.count = true
			c := newNewcomer(chaosOn(t, h, *seedFlag))
			began := time.Now()
			c.killedAt(s.first, c.write)
			c.killedAt(s.photo, c.photo)
			if n == 0 {
				c.crashLoop()
			}
			if last := len(all) - 1; n == last && last > 0 {
				c.crashLoop()
				c.keptOff()
			}
			c.settled()
			c.check(began)
			if fetched := len(c.api.Calls("getFile")); fetched == 0 || !strings.Contains(c.aboutPhoto(), "image") {
				t.Errorf("OpenClaw asked for the photo %d times, and the model was asked %q", fetched, c.aboutPhoto())
			}
		})
	}
}

// newcomer is one user, whose assistant is new.
type newcomer struct {
	*chaos
	n        int
	photoKey string // of the photo's message
	shown    string // what the model was asked with it
}

func newNewcomer(chaos *chaos) *newcomer {
	c := &newcomer{chaos: chaos}
	hear := c.hear
	c.hear = func(said string) {
		hear(said)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.photoKey != "" && strings.Contains(said, c.photoKey) {
			c.shown = said
		}
	}
	c.startGateway()
	return c
}

// one writes the user's next message.
func (c *newcomer) one(write func(n int)) {
	write(c.n)
	c.n += chats
}

// killedAt has a message written, and what is to be killed with it killed. It returns when the
// message has an answer, or its sender knows that there may be none.
func (c *newcomer) killedAt(k kill, write func(n int)) {
	c.t.Helper()
	c.arm(k)
	c.one(write)
	c.struck(k)
	c.settled()
}

func (c *newcomer) arm(k kill) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = &k
}

// struck waits until what was armed is killed.
func (c *newcomer) struck(k kill) {
	c.t.Helper()
	c.until(fmt.Sprintf("%s is killed at %s", k.what, k.step), func() error {
		select {
		case <-c.fired:
			return nil
		default:
			return errors.New("the step has not come")
		}
	})
}

// settled waits until every message has an answer, or its sender was told that there is none, and
// OpenClaw may get the next one.
func (c *newcomer) settled() {
	c.t.Helper()
	c.until("every message is answered, or its sender told", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		by, told := c.answers()
		told = slices.DeleteFunc(told, func(s botapi.Sent) bool { return !strings.HasPrefix(s.Text, "Your assistant was interrupted") })
		for _, key := range c.order {
			if by[key] == 0 && !c.wasTold(key, &told) {
				return fmt.Errorf("%s: %s; sent %+v", key, c.story(key), c.api.Sent())
			}
		}
		if n := len(c.api.Pending()); n > 0 {
			return fmt.Errorf("%d wait", n)
		}
		return nil
	})
	c.ready()
}

// photo writes a message with a picture.
func (c *newcomer) photo(n int) {
	var picture bytes.Buffer
	must(c.t, png.Encode(&picture, image.NewGray(image.Rect(0, 0, 32, 32))))
	chat, key := c.next(n)
	id := c.api.AddFile(fmt.Sprintf("photos/%d.png", n), picture.Bytes())
	c.mu.Lock()
	c.photoKey = key
	c.mu.Unlock()
	c.api.Add(func(message int64) map[string]any {
		return map[string]any{"message": map[string]any{"message_id": message, "date": time.Now().Unix(), "caption": key + " with a picture",
			"photo": []any{map[string]any{"file_id": id, "file_unique_id": "u" + id, "width": 32, "height": 32, "file_size": picture.Len()}},
			"from":  map[string]any{"id": chat, "is_bot": false, "first_name": "U"}, "chat": map[string]any{"id": chat, "type": "private", "first_name": "U"}}}
	})
}

// aboutPhoto is what the model was asked with the photo.
func (c *newcomer) aboutPhoto() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shown
}

// Texts of OpenClaw and of mvm in the worker's log, of chats that are not started.
const (
	breakerText = "restart-loop breaker tripped"
	startsText  = "mvm starts telegram, which OpenClaw keeps off after crashes"
)

// counted is how many lines of the log of OpenClaw's process have the text.
func (c *newcomer) counted(text string) (n int) {
	for _, line := range c.said(1000) {
		if line.Service == "openclaw" && strings.Contains(line.Text, text) {
			n++
		}
	}
	return n
}

// mostKills is after how many kills OpenClaw must have noticed: three, with those of its machine,
// which may forget one that was not on its disk.
const mostKills = 5

// crashLoop kills OpenClaw in the midst of a turn, with another message of the chat behind, until
// it starts without its chats. Then mvm starts them.
func (c *newcomer) crashLoop() {
	c.t.Helper()
	starts := c.counted(startsText)
	for n := range mostKills {
		c.killMidTurn()
		c.settled()
		if c.counted(breakerText) > 0 {
			c.t.Logf("OpenClaw started without its chats after %d kills", n+1)
			break
		}
	}
	if now := c.counted(startsText); now <= starts {
		c.t.Errorf("OpenClaw was killed %d times, and has started without its chats %d times; mvm has started them %d times", c.kills(), c.counted(breakerText), now)
	}
}

// killMidTurn kills OpenClaw in the midst of a turn, with another message of the chat behind.
func (c *newcomer) killMidTurn() {
	c.t.Helper()
	k := kill{what: "openclaw", step: "model"}
	c.arm(k)
	c.one(c.write)
	c.one(c.write)
	c.struck(k)
}

// keptOff kills OpenClaw until mvm does not start its chats any more. Then the sender is told
// that the message is kept, and it is answered once OpenClaw starts its chats by itself.
func (c *newcomer) keptOff() {
	c.t.Helper()
	const broken = "Your assistant has a problem and takes no messages at the moment"
	isTold := func() bool {
		return slices.ContainsFunc(c.api.Sent(), func(s botapi.Sent) bool { return strings.HasPrefix(s.Text, broken) })
	}
	for range mostKills {
		c.killMidTurn()
		c.settled()
		if isTold() {
			c.t.Logf("after %d kills OpenClaw kept its chats off, the sender was told so, and the messages were answered once it had started them itself", c.kills())
			return
		}
	}
	c.t.Errorf("OpenClaw was killed %d times, and its sender was not told that it takes no messages; sent %+v", c.kills(), c.api.Sent())
}
