package chat_test

import (
	"context"
	"log/slog"
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

// keeper has messages until they are given up.
type keeper struct{ over atomic.Bool }

func (k *keeper) Check(chat.Message) error {
	if k.over.Load() {
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
