// Package chat delivers messages of chats to workers, in a gateway VM.
//
// An adapter (package telegram) takes messages from its platform, decides by the channel's
// allowlist, and offers them to a Queue. The Queue has the worker awake, waits until it may
// get a message, posts the message, and has the worker's guest make it durable. Only then
// the adapter confirms it to the platform, which keeps it until then: a gateway that is killed
// loses nothing. Where the gateway has a data disk, that takes over what waits when so much
// does that the platform would show no more (Disk), and it has the answers that are owed.
//
// What a Queue promises:
//   - A message counts as delivered when the worker has answered as the channel's target
//     asks for, and its guest has then synced its disk, both in the same boot.
//   - Messages of one worker are delivered one at a time, in the order of their offer. An
//     urgent one (a command, a button) passes those that wait for the worker to become idle.
//   - A message may be delivered more than once: after a failure between the answer of the
//     worker and the platform's confirmation. It always has the same id.
//   - Where a worker dies after it has accepted a message and before it has answered, and does
//     not answer when it is up again, the chat is told.
//   - A message that the worker refuses again and again is set aside: its sender is told,
//     and the others go on.
package chat

import (
	"cmp"
	"context"
	"net"
	"time"

	"mvm"
	"mvm/internal/guestproto"
)

// Workers are the instances to which channels lead. Its methods may be called concurrently.
type Workers interface {
	// Reach has the instance awake that the key names, in the channel's name. The caller ends
	// the lease.
	Reach(ctx context.Context, channel, pool, key string) (Lease, error)
	// Preflight asks whether the instance may get a message now.
	Preflight(ctx context.Context, pool, instance string) (guestproto.PreflightAck, error)
	// State says how the instance is and in which boot, without waking it; StateDestroyed: it
	// is not there any more.
	State(ctx context.Context, pool, instance string) (state mvm.State, boot int, err error)
	// Sync makes durable what the instance has written in the boot.
	Sync(ctx context.Context, pool, instance string, boot int) error
}

// Lease is the use of an awake instance, which does not go to sleep meanwhile.
type Lease interface {
	Instance() (id string, boot int)
	Dial(ctx context.Context, port int) (net.Conn, error)
	End()
}

// Platform is what a Queue has done at the platform.
type Platform interface {
	// Typing shows in the chat that somebody works on an answer.
	Typing(ctx context.Context, chat string) error
	// Say sends a text of mvm's own to the chat. KindPolicy: the chat may not be written to.
	Say(ctx context.Context, chat, text string) error
}

// Recorder takes what became of messages. It does not block.
type Recorder interface {
	Record(channel string, e guestproto.MessageEvent)
}

// Limits bound a Queue, and Tenant all queues of a Set. A zero field means the default, which is in brackets.
type Limits struct {
	Waiting  int           // messages that wait [200]
	PerChat  int           // of them from one chat [50]
	Tenant   int           // that wait in all channels [10,000]
	Typing   time.Duration // between two signs of typing [4.5 s]
	Post     time.Duration // for the worker to answer [30 s]
	Poll     time.Duration // between two looks at whether a worker is idle, at first [150 ms]
	PollMax  time.Duration // and at most [2 s]
	Retry    time.Duration // after a failure, doubled with each [500 ms]
	RetryMax time.Duration // up to [30 s]
	Refusals int           // of the worker, after which a message is set aside [5]
	Errors   int           // 5xx of the worker, after which it is [20]
	Slow     time.Duration // after which the sender is told that the worker is not up [45 s]
	Keep     time.Duration // since a message was written, after which it is set aside [23 h]
	Look     time.Duration // between two looks at whether a worker has answered, at first [1 s]
	LookMax  time.Duration // and at most [15 s]
	Recovery time.Duration // a worker that has died is idle with nothing more to answer [30 s]
	GiveUp   time.Duration // after which one that has died and does not come up is not waited for [10 min]
}

func (l Limits) withDefaults() Limits {
	l.Waiting = cmp.Or(l.Waiting, 200)
	l.PerChat = cmp.Or(l.PerChat, 50)
	l.Typing = cmp.Or(l.Typing, 4500*time.Millisecond)
	l.Post = cmp.Or(l.Post, 30*time.Second)
	l.Poll = cmp.Or(l.Poll, 150*time.Millisecond)
	l.PollMax = cmp.Or(l.PollMax, 2*time.Second)
	l.Retry = cmp.Or(l.Retry, 500*time.Millisecond)
	l.RetryMax = cmp.Or(l.RetryMax, 30*time.Second)
	l.Refusals = cmp.Or(l.Refusals, 5)
	l.Errors = cmp.Or(l.Errors, 20)
	l.Slow = cmp.Or(l.Slow, 45*time.Second)
	l.Keep = cmp.Or(l.Keep, 23*time.Hour)
	l.Look = cmp.Or(l.Look, time.Second)
	l.LookMax = cmp.Or(l.LookMax, 15*time.Second)
	l.Recovery = cmp.Or(l.Recovery, 30*time.Second)
	l.GiveUp = cmp.Or(l.GiveUp, 10*time.Minute)
	return l
}

// Wait waits for d, and reports false when ctx ended first.
func Wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
