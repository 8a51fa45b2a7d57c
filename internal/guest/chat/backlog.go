package chat

import (
	"cmp"
	"slices"
	"time"

	"mvm/internal/guestproto"
)

// backlog looks, once in a while, whether messages wait for long. While none waits it does
// nothing. Its queue's lock guards it.
type backlog struct {
	timer *time.Timer
	told  map[string]bool // the keys of the workers for which messages wait for long
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
	if len(q.byID) > 0 {
		q.watchBacklog()
	}
	q.backlog.told = nil
	for _, l := range q.lines {
		if n, oldest := l.waits(); n > 0 && time.Since(oldest) >= guestproto.BacklogAfter {
			if q.backlog.told == nil {
				q.backlog.told = map[string]bool{}
			}
			q.backlog.told[l.key] = true
		}
	}
	tell := len(q.backlog.told) > 0 && !q.closed
	q.mu.Unlock()
	if tell {
		q.opt.Changed()
	}
}

// backlogOver reports that nothing waits any more for the worker of the key, of which it was
// told that messages wait for long. q.mu is held.
func (q *Queue) backlogOver(key string) bool {
	if !q.backlog.told[key] {
		return false
	}
	if l := q.lines[key]; l != nil && len(l.waiting) > 0 {
		return false
	}
	delete(q.backlog.told, key)
	return true
}

// backlogs are the workers for which messages wait for long, that of the oldest first.
// q.mu is held.
func (q *Queue) backlogs(now time.Time) (out []guestproto.WorkerBacklog) {
	for _, l := range q.lines {
		if n, oldest := l.waits(); n > 0 && now.Sub(oldest) >= guestproto.BacklogAfter {
			out = append(out, guestproto.WorkerBacklog{Key: l.key, Waiting: n, Oldest: oldest})
		}
	}
	slices.SortFunc(out, func(a, b guestproto.WorkerBacklog) int {
		return cmp.Or(a.Oldest.Compare(b.Oldest), cmp.Compare(a.Key, b.Key))
	})
	return out[:min(len(out), guestproto.MaxBacklogs)]
}

// oldest is when the oldest message that waits was offered. q.mu is held.
func (q *Queue) oldest() (at time.Time) {
	for _, l := range q.lines {
		if n, oldest := l.waits(); n > 0 && (at.IsZero() || oldest.Before(at)) {
			at = oldest
		}
	}
	return at
}

// waits counts the messages that wait for the worker, and says when the oldest was offered.
// q.mu is held.
func (l *line) waits() (n int, oldest time.Time) {
	for _, t := range l.waiting {
		if oldest.IsZero() || t.offered.Before(oldest) {
			oldest = t.offered
		}
	}
	return len(l.waiting), oldest
}
