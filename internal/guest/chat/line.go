package chat

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"mvm/internal/guestproto"
)

// line are the messages of one worker, in order.
type line struct {
	q     *Queue
	key   string
	news  chan struct{} // something was added
	nudge chan struct{} // no pause
	told  atomic.Bool   // the senders know that the worker is not up
	why   atomic.Value  // of string: what they are told of it
	upAt  time.Time     // when the worker last answered; used by run alone

	waiting []*Ticket // q.mu
}

// add appends the ticket. q.mu is held.
func (l *line) add(t *Ticket) {
	l.waiting = append(l.waiting, t)
	select {
	case l.news <- struct{}{}:
	default:
	}
}

// run delivers until nothing waits.
func (l *line) run() {
	for {
		l.q.mu.Lock()
		if len(l.waiting) == 0 || l.q.closed {
			delete(l.q.lines, l.key)
			l.q.mu.Unlock()
			return
		}
		t := l.waiting[0]
		l.q.mu.Unlock()
		if !l.deliver(t) {
			return
		}
	}
}

// remove takes the ticket out of the line.
func (l *line) remove(t *Ticket) {
	l.q.mu.Lock()
	defer l.q.mu.Unlock()
	if n := slices.Index(l.waiting, t); n >= 0 {
		l.waiting = slices.Delete(l.waiting, n, n+1)
	}
}

// urgent returns the first urgent ticket, nil where none waits.
func (l *line) urgent() *Ticket {
	l.q.mu.Lock()
	defer l.q.mu.Unlock()
	if n := slices.IndexFunc(l.waiting, func(t *Ticket) bool { return t.Urgent }); n >= 0 {
		return l.waiting[n]
	}
	return nil
}

// deliver tries until the first ticket is delivered or set aside; false: the queue is closed.
func (l *line) deliver(t *Ticket) bool {
	q := l.q
	since := t.offered
	if l.upAt.After(since) { // it has waited for others' turns, not for the worker
		since = l.upAt
	}
	slow := time.AfterFunc(q.lim.Slow-time.Since(since), func() { l.tellSlow(t) })
	defer slow.Stop()
	for pause := q.lim.Retry; ; pause = min(2*pause, q.lim.RetryMax) {
		err := l.attempt(t)
		if err != nil {
			err = cmp.Or(l.q.expired(t), err)
		}
		switch {
		case err == nil, l.setAside(t, err):
			return true
		case q.ctx.Err() != nil:
			return false
		}
		var no *Refusal
		later := pause
		if errors.As(err, &no) {
			later = max(pause, min(no.After, maxRetryAfter))
		} else if k := q.keeper(t); k != nil {
			k.Failed(t.message(), false, err.Error())
		}
		q.opt.Log.Info("message not delivered yet", "channel", q.opt.Channel.Name, "message", t.ID, "error", err)
		if !l.pause(later) {
			return false
		}
	}
}

// maxRetryAfter bounds what a worker can ask for.
const maxRetryAfter = 10 * time.Minute

// pause waits after a failure, and reports false when the queue is closed.
func (l *line) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.nudge:
		return true
	case <-l.q.ctx.Done():
		return false
	}
}

// tellSlow tells the sender that the worker is not up, once for all that wait.
func (l *line) tellSlow(t *Ticket) {
	l.q.mu.Lock()
	defer l.q.mu.Unlock()
	if l.q.byID[t.ID] != t || t.up.Load() || l.told.Swap(true) {
		return
	}
	text, _ := l.why.Load().(string)
	l.q.goDo(func() { l.q.say(t.Chat, cmp.Or(text, textSlow)) })
}

// attempt has the worker awake and delivers the ticket, and urgent ones that come meanwhile.
func (l *line) attempt(t *Ticket) error {
	err := l.try(t)
	if errors.Is(err, ErrGone) {
		l.remove(t)
		l.q.settle(t, messageGone, "", "")
		return nil
	}
	return err
}

func (l *line) try(t *Ticket) error {
	if k := l.q.keeper(t); k != nil { // a worker is not woken for what is gone
		if err := k.Check(t.message()); err != nil {
			return err
		}
	}
	lease, err := l.q.opt.Workers.Reach(l.q.ctx, l.q.opt.Channel.Name, l.q.opt.Channel.To.PoolID, l.key)
	if err != nil {
		l.why.Store(textDown)
		return err
	}
	defer lease.End()
	for {
		by, err := l.await(lease, t)
		if err != nil {
			return err
		}
		if err := l.hand(lease, t, by); !errors.Is(err, ErrLater) {
			return err
		}
		if !Wait(l.q.ctx, l.q.lim.PollMax) {
			return context.Cause(l.q.ctx)
		}
	}
}

// expired says of a message that the platform is about to forget that it is set aside.
func (q *Queue) expired(t *Ticket) error {
	if t.Kept() || t.Written.IsZero() || time.Since(t.Written) < q.lim.Keep || time.Since(t.offered) < q.lim.GiveUp {
		return nil
	}
	return &Refusal{Final: true, Why: "it has waited for more than " + q.lim.Keep.String()}
}

// read returns the ticket's body.
func (l *line) read(t *Ticket) ([]byte, error) {
	l.q.mu.Lock()
	body, k := t.body, l.q.keeper(t)
	l.q.mu.Unlock()
	if k == nil {
		return body, nil
	}
	return k.Read(t.message())
}

// await waits until the worker may get the ticket, and returns which life of it may.
func (l *line) await(lease Lease, t *Ticket) (by life, err error) {
	q := l.q
	instance, boot := lease.Instance()
	for pause := q.lim.Poll; ; pause = min(pause*3/2, q.lim.PollMax) {
		asked := time.Now()
		now, err := l.preflight(instance)
		if err != nil {
			return by, err
		}
		by = life{instance, boot, now.Restarts}
		settled := q.saw(l.key, by, asked, now)
		l.why.Store("")
		switch {
		case !now.Held:
			t.up.Store(true)
			l.upAt = time.Now()
			l.told.Store(false)
			if now.Safe && settled || t.Urgent {
				return by, nil
			}
			if err := l.passUrgent(lease, by); err != nil {
				return by, err
			}
		case now.Broken:
			l.why.Store(textBroken)
		}
		if err := q.expired(t); err != nil {
			return by, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-l.news:
			timer.Stop()
		case <-q.ctx.Done():
			timer.Stop()
			return by, context.Cause(q.ctx)
		}
	}
}

// passUrgent delivers what does not wait for the worker to become idle.
func (l *line) passUrgent(lease Lease, by life) error {
	for u := l.urgent(); u != nil; u = l.urgent() {
		switch err := l.hand(lease, u, by); {
		case errors.Is(err, ErrLater):
			return nil // with the next look
		case err != nil && !l.setAside(u, err):
			return err
		}
	}
	return nil
}

// preflightTimeout bounds one question to the worker's guest.
const preflightTimeout = 15 * time.Second

func (l *line) preflight(instance string) (guestproto.PreflightAck, error) {
	ctx, cancel := context.WithTimeout(l.q.ctx, preflightTimeout)
	defer cancel()
	return l.q.opt.Workers.Preflight(ctx, l.q.opt.Channel.To.PoolID, instance)
}

// hand posts the ticket to the worker, in the life, and has it made durable.
func (l *line) hand(lease Lease, t *Ticket, by life) error {
	q := l.q
	body, err := l.read(t) // only now: it may have waited for long, and been dropped
	if err != nil {
		return err
	}
	instance, boot := lease.Instance()
	ctx, cancel := context.WithTimeout(q.ctx, q.lim.Post)
	defer cancel()
	m := t.message()
	m.Body = body
	deliver := q.opt.Deliver
	if deliver == nil {
		deliver = q.post
	}
	q.owe(l.key, m, by)
	q.owed.save(l.key, m)
	if err := deliver(ctx, lease, m); err != nil {
		return err
	}
	if err := q.opt.Workers.Sync(ctx, q.opt.Channel.To.PoolID, instance, boot); err != nil {
		return err
	}
	l.remove(t)
	q.accept(l.key, m, by)
	q.settle(t, guestproto.MessageAccepted, instance, "")
	return nil
}

// count counts an answer that does not count as delivered.
func (q *Queue) count(t *Ticket, no *Refusal) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if no.Status >= 500 {
		t.Errors++
	} else {
		t.Refusals++
	}
}

// setAside gives up a ticket that the worker has refused too often, and tells the sender.
func (l *line) setAside(t *Ticket, err error) bool {
	var no *Refusal
	if !errors.As(err, &no) {
		return false
	}
	keeper := l.q.keeper(t)
	switch later := no.Status == http.StatusTooManyRequests || no.Status == http.StatusServiceUnavailable; {
	case no.Final:
	case later && keeper != nil: // it is not the message that is wrong, and the keeper's bound is its age
		keeper.Failed(t.message(), false, no.Error())
		return false
	default:
		l.q.count(t, no)
	}
	if !no.Final && t.Refusals < l.q.lim.Refusals && t.Errors < l.q.lim.Errors {
		if keeper != nil {
			keeper.Failed(t.message(), true, no.Error())
		}
		return false
	}
	l.remove(t)
	l.q.opt.Log.Warn("message set aside", "channel", l.q.opt.Channel.Name, "message", t.ID, "error", err)
	l.q.settle(t, guestproto.MessageSetAside, no.Instance, no.Error())
	text := textSetAside
	if l.q.expired(t) != nil {
		text = textExpired
	}
	l.q.say(t.Chat, text)
	return true
}
