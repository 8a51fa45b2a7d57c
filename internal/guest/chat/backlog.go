package chat

import (
	"time"

	"mvm/internal/guestproto"
)

// backlog looks, once in a while, whether messages wait for long. While none waits it does
// nothing. Its queue's lock guards it.
type backlog struct {
	timer *time.Timer
	told  bool
}

// watchBacklog has the queue looked at, since a message waits. q.mu is held.
func (q *Queue) watchBacklog() {
	if q.backlog.timer == nil && !q.closed && q.opt.Changed != nil {
		q.backlog.timer = time.AfterFunc(guestproto.BacklogAfter, q.lookAtBacklog)
	}
}

// lookAtBacklog tells of messages that wait for long, and how many they are by now.
func (q *Queue) lookAtBacklog() {
	q.mu.Lock()
	q.backlog.timer = nil
	waits := len(q.byID) > 0
	if waits {
		q.watchBacklog()
	}
	q.backlog.told = waits && time.Since(q.oldest()) >= guestproto.BacklogAfter
	told := q.backlog.told && !q.closed
	q.mu.Unlock()
	if told {
		q.opt.Changed()
	}
}

// backlogOver reports that nothing waits any more of what was told. q.mu is held.
func (q *Queue) backlogOver() bool {
	over := q.backlog.told && len(q.byID) == 0
	if over {
		q.backlog.told = false
	}
	return over
}

// oldest is when the oldest message that waits was offered. q.mu is held.
func (q *Queue) oldest() (at time.Time) {
	for _, t := range q.byID {
		if at.IsZero() || t.offered.Before(at) {
			at = t.offered
		}
	}
	return at
}
