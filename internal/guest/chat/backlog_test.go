package chat_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mvm"
	"mvm/internal/guest/chat"
	"mvm/internal/guestproto"
)

// gone are workers that can't be reached.
type gone struct{}

func (gone) Reach(context.Context, string, string, string) (chat.Lease, error) {
	return nil, mvm.Errorf(mvm.KindUnavailable, "no room for it")
}
func (gone) Preflight(context.Context, string, string) (guestproto.PreflightAck, error) {
	return guestproto.PreflightAck{}, nil
}
func (gone) State(context.Context, string, string) (mvm.State, int, error) {
	return mvm.StateRunning, 1, nil
}

func (gone) Sync(context.Context, string, string, int) error { return nil }
func (gone) Record(string, guestproto.MessageEvent)          {}

// keeper has messages until they are given up: all of them, or those of one worker.
type keeper struct {
	over    atomic.Bool
	without atomic.Value // of string: a key
}

func (k *keeper) Check(m chat.Message) error {
	if key, _ := k.without.Load().(string); k.over.Load() || key != "" && m.Key == key {
		return chat.ErrGone
	}
	return nil
}
func (k *keeper) Read(m chat.Message) ([]byte, error) { return nil, k.Check(m) }
func (*keeper) Failed(chat.Message, bool, string)     {}
func (*keeper) Settled(chat.Message, string, string)  {}
func (k *keeper) queue(changed func()) *chat.Queue {
	return chat.NewQueue(chat.QueueOptions{Channel: guestproto.Channel{Channel: mvm.Channel{Name: "bot"}}, Workers: gone{}, Recorder: gone{}, Keeper: k,
		Log: slog.New(slog.DiscardHandler), Changed: changed})
}

// TestBacklogIsTold: a message that waits for a minute is told, once a minute, and at once
// when it does not wait any more. While none waits nothing is done.
func TestBacklogIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told atomic.Int32
		k := &keeper{}
		q := k.queue(func() { told.Add(1) })
		defer q.Close()
		want := func(what string, n int32) {
			t.Helper()
			synctest.Wait()
			if got := told.Load(); got != n {
				t.Errorf("%s: told %d times, want %d; %+v", what, got, n, q.Counts())
			}
		}
		began := time.Now()
		q.Offer(chat.Message{ID: 1, Key: "alice"})
		time.Sleep(59 * time.Second)
		want("after 59 s", 0)
		time.Sleep(2 * time.Second)
		want("after a minute", 1)
		if c := q.Counts(); c.Waiting != 1 || !c.Oldest.Equal(began) {
			t.Errorf("%+v, began %s", c, began)
		}
		time.Sleep(2 * time.Minute)
		want("after three minutes", 3)
		k.over.Store(true)
		time.Sleep(time.Minute) // the next try
		want("when none waits", 4)
		time.Sleep(time.Hour)
		want("an hour later", 4)
	})
}

// TestBacklogOfWorkers: which workers' messages wait for long is told, the oldest first and not
// more than fit into a report, and at once when one's do not wait any more though others' do.
func TestBacklogOfWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told atomic.Int32
		k := &keeper{}
		q := k.queue(func() { told.Add(1) })
		defer q.Close()
		began := time.Now()
		q.Offer(chat.Message{ID: 1, Key: "alice"})
		q.Offer(chat.Message{ID: 2, Key: "bob"})
		time.Sleep(time.Second)
		q.Offer(chat.Message{ID: 3, Key: "alice"})
		for n := range int64(2 * guestproto.MaxBacklogs) {
			q.Offer(chat.Message{ID: 10 + n, Key: fmt.Sprintf("late%02d", n)})
		}
		want := func(what string, first ...guestproto.WorkerBacklog) {
			t.Helper()
			synctest.Wait()
			if got := q.Counts().Backlogs; len(got) < len(first) || !slices.Equal(got[:len(first)], first) {
				t.Errorf("%s: %+v wait, want first %+v", what, got, first)
			}
		}
		time.Sleep(58 * time.Second)
		want("after 59 s")
		if n := len(q.Counts().Backlogs); n > 0 {
			t.Errorf("after 59 s %d workers' messages wait for long", n)
		}
		time.Sleep(time.Second)
		alice, bob := guestproto.WorkerBacklog{Key: "alice", Waiting: 2, Oldest: began}, guestproto.WorkerBacklog{Key: "bob", Waiting: 1, Oldest: began}
		want("after a minute", alice, bob)
		time.Sleep(time.Second)
		want("a second later", alice, bob, guestproto.WorkerBacklog{Key: "late00", Waiting: 1, Oldest: began.Add(time.Second)})
		if n := len(q.Counts().Backlogs); n != guestproto.MaxBacklogs {
			t.Errorf("%d workers are told, want %d", n, guestproto.MaxBacklogs)
		}
		time.Sleep(time.Minute + time.Second/2) // the next minute's look is just over
		before := told.Load()
		k.without.Store("alice")
		time.Sleep(50 * time.Second) // less than until the look after it
		want("without alice's", bob)
		if n := told.Load() - before; n != 1 {
			t.Errorf("that alice's messages do not wait any more was told %d times", n)
		}
	})
}
