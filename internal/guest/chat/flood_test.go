package chat_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mvm"
	"mvm/internal/guest/chat"
	"mvm/internal/guestproto"
)

// platform notes what is said in chats.
type platform struct {
	mu   sync.Mutex
	said []string // CHAT: TEXT
}

func (*platform) Typing(context.Context, string) error { return nil }

func (p *platform) Say(_ context.Context, in, text string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said = append(p.said, in+": "+text)
	return nil
}

func (p *platform) count(in string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.said {
		if strings.HasPrefix(s, in+": Too many messages are waiting") {
			n++
		}
	}
	return n
}

// TestFlood: the messages of all channels together are bounded, not only those of a chat and of
// a channel. Each chat that has lost one is told once, and again in another flood.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flood, p := chat.NewFlood(10), &platform{}
		open := func(name string) *chat.Queue {
			return chat.NewQueue(chat.QueueOptions{Channel: guestproto.Channel{Channel: mvm.Channel{Name: name}}, Workers: gone{}, Recorder: gone{}, Platform: p,
				Log: slog.New(slog.DiscardHandler), Flood: flood})
		}
		first, second := open("first"), open("second")
		offer := func(q *chat.Queue, from, n int) (refused int) {
			for id := from; id < from+n; id++ {
				q.Offer(chat.Message{ID: int64(id), Chat: fmt.Sprint("c", id%3), Key: "alice"})
			}
			synctest.Wait()
			return q.Counts().Refused
		}
		if n := offer(first, 1, 6); n != 0 {
			t.Errorf("%d of 6 are refused", n)
		}
		if n := offer(second, 1, 12); n != 8 {
			t.Errorf("%d of 12 more are refused, want 8", n)
		}
		for _, in := range []string{"c0", "c1", "c2"} {
			if n := p.count(in); n != 1 {
				t.Errorf("chat %s is told %d times", in, n)
			}
		}
		second.Close()
		second = open("second")
		defer second.Close()
		first.Close()
		if offer(second, 1, 10); second.Counts().Refused != 0 {
			t.Error("after the flood messages are refused")
		}
		offer(second, 11, 3)
		time.Sleep(time.Second)
		if n := p.count("c0"); n != 2 {
			t.Errorf("in two floods a chat is told %d times", n)
		}
	})
}
