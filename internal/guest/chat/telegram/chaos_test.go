package telegram_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"mvm/internal/guestproto"
)

var (
	chaosSeed     = flag.Uint64("chaos.seed", 0, "seed of TestChaos; 0: a new one")
	chaosMessages = flag.Int("chaos.messages", 500, "messages of TestChaos")
)

// chaos kills the adapter, a worker's process, a worker's machine with what it has not synced,
// or the host's agent, which is away for a few questions then, at one step after the other.
type chaos struct {
	s *stage

	mu      sync.Mutex
	r       *rand.Rand
	left    int
	restart chan struct{}  // the adapter is to be killed
	kills   map[string]int // by what and step
	early   map[int64]bool // updates whose turn was made before they were on disk, and whose machine was killed then
}

func (c *chaos) at(step string, w *worker) {
	c.mu.Lock()
	if c.left == 0 || c.r.IntN(12) > 0 {
		c.mu.Unlock()
		return
	}
	c.left--
	what := []string{"adapter", "process", "machine", "agent"}[c.r.IntN(4)]
	c.kills[what+" at "+step]++
	c.mu.Unlock()
	switch what {
	case "adapter":
		select {
		case c.restart <- struct{}{}:
		default:
		}
	case "machine":
		for _, id := range w.kill(true) {
			c.mu.Lock()
			c.early[id] = true
			c.mu.Unlock()
		}
	case "agent":
		w.f.mu.Lock()
		w.f.away = 5
		w.f.mu.Unlock()
	default:
		w.kill(false)
	}
}

// TestChaos: with kills at every step no update is lost, each chat's order is kept, and each
// is answered once, but for those whose answer went out before the worker's machine died
// with what it had not synced.
func TestChaos(t *testing.T) {
	for name, from := range map[string]string{"a worker for each chat": "chat", "a worker for each chat, with a disk": "chat", "one worker": "fixed:alice"} {
		t.Run(name, func(t *testing.T) {
			seed := *chaosSeed
			if seed == 0 {
				seed = rand.Uint64()
			}
			t.Logf("seed %d: -chaos.seed=%d", seed, seed)
			s := newStage(t, func(c *guestproto.Channel) { c.Allow, c.To.Selector.From = []string{"*"}, from })
			c := &chaos{s: s, r: rand.New(rand.NewPCG(seed, 1)), left: *chaosMessages / 4, restart: make(chan struct{}, 1), kills: map[string]int{}, early: map[int64]bool{}}
			s.fleet.hook = c.at
			if strings.Contains(name, "disk") {
				s.withDisk()
			}
			s.open()
			const chats = 20
			written := map[int64][]string{}
			for n := range *chaosMessages {
				id := int64(100 + n%chats)
				text := fmt.Sprintf("%d of chat %d", n/chats, id)
				written[id] = append(written[id], text)
				s.api.Write(id, id, text)
				if n%97 == 96 {
					s.until("some are confirmed", func() bool { c.restarts(); return len(s.api.Pending()) < 60 })
				}
			}
			s.until("delivered", func() bool { c.restarts(); return s.confirmed() && s.nothingKept() })
			c.check(t, written)
		})
	}
}

// restarts kills the adapter where it is to be, and starts it anew.
func (c *chaos) restarts() {
	select {
	case <-c.restart:
		if c.s.disk != nil {
			c.s.disk.dead.Store(true)
		}
		c.s.bot.Close()
		c.s.open()
	default:
	}
}

func (c *chaos) check(t *testing.T, written map[int64][]string) {
	c.s.until("all turns are made", func() bool {
		for _, w := range c.s.fleet.all() {
			w.mu.Lock()
			busy := w.busy
			w.mu.Unlock()
			if busy {
				return false
			}
		}
		return true
	})
	got, twice, explained := map[int64][]string{}, 0, 0
	for _, w := range c.s.fleet.all() {
		w.mu.Lock()
		for _, a := range w.order {
			if _, ok := w.disk[a.id]; !ok {
				t.Errorf("update %d was confirmed and is not on disk", a.id)
			}
			got[a.chat] = append(got[a.chat], a.text)
			switch n := w.answered[a.id]; {
			case n == 0:
				t.Errorf("update %d was not answered", a.id)
			case n > 1 && c.early[a.id]:
				explained++
			case n > 1:
				twice++
			}
		}
		w.mu.Unlock()
	}
	for id, want := range written {
		if !slices.Equal(got[id], want) {
			t.Errorf("chat %d has\n%s\nwant\n%s", id, strings.Join(got[id], "\n"), strings.Join(want, "\n"))
		}
	}
	if twice > 0 {
		t.Errorf("%d updates were answered twice without a reason", twice)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t.Logf("kills: %v; answered twice since the disk had lost them: %d", c.kills, explained)
}
