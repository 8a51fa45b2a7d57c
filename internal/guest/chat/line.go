package chat

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"mvm/internal/guestproto"
)

// line are the messages of one worker, in order.
type line struct {
	q    *Queue
	key  string
	news chan struct{} // something was added
	told atomic.Bool   // the senders know that the worker is not up

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
	slow := time.AfterFunc(q.lim.Slow-time.Since(t.offered), func() { l.tellSlow(t) })
	defer slow.Stop()
	for pause := q.lim.Retry; ; pause = min(2*pause, q.lim.RetryMax) {
		err := l.attempt(t)
		switch {
		case err == nil, l.setAside(t, err):
			return true
		case q.ctx.Err() != nil:
			return false
		}
		q.opt.Log.Info("message not delivered yet", "channel", q.opt.Channel.Name, "message", t.ID, "error", err)
		if !wait(q.ctx, pause) {
			return false
		}
	}
}

// tellSlow tells the sender that the worker is not up, once for all that wait.
func (l *line) tellSlow(t *Ticket) {
	l.q.mu.Lock()
	defer l.q.mu.Unlock()
	if l.q.byID[t.ID] != t || t.up.Load() || l.told.Swap(true) {
		return
	}
	l.q.goDo(func() { l.q.say(t.Chat, textSlow) })
}

// attempt has the worker awake and delivers the ticket, and urgent ones that come meanwhile.
func (l *line) attempt(t *Ticket) error {
	lease, err := l.q.opt.Workers.Reach(l.q.ctx, l.q.opt.Channel.Name, l.q.opt.Channel.To.PoolID, l.key)
	if err != nil {
		return err
	}
	defer lease.End()
	if err := l.await(lease, t); err != nil {
		return err
	}
	return l.hand(lease, t)
}

// await waits until the worker may get the ticket.
func (l *line) await(lease Lease, t *Ticket) error {
	q := l.q
	instance, _ := lease.Instance()
	for pause := q.lim.Poll; ; pause = min(pause*3/2, q.lim.PollMax) {
		now, err := l.preflight(instance)
		if err != nil {
			return err
		}
		if !now.Held {
			t.up.Store(true)
			l.told.Store(false)
			if now.Safe || t.Urgent {
				return nil
			}
			if err := l.passUrgent(lease); err != nil {
				return err
			}
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-l.news:
			timer.Stop()
		case <-q.ctx.Done():
			timer.Stop()
			return context.Cause(q.ctx)
		}
	}
}

// passUrgent delivers what does not wait for the worker to become idle.
func (l *line) passUrgent(lease Lease) error {
	for u := l.urgent(); u != nil; u = l.urgent() {
		if err := l.hand(lease, u); err != nil && !l.setAside(u, err) {
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

// hand posts the ticket to the worker and has it made durable.
func (l *line) hand(lease Lease, t *Ticket) error {
	q := l.q
	instance, boot := lease.Instance()
	ctx, cancel := context.WithTimeout(q.ctx, q.lim.Post)
	defer cancel()
	if err := q.post(ctx, lease, t.Message); err != nil {
		return err
	}
	if err := q.opt.Workers.Sync(ctx, q.opt.Channel.To.PoolID, instance, boot); err != nil {
		return err
	}
	l.remove(t)
	q.settle(t, guestproto.MessageAccepted, instance, "")
	return nil
}

// setAside gives up a ticket that the worker has refused too often, and tells the sender.
func (l *line) setAside(t *Ticket, err error) bool {
	var no *Refusal
	if !errors.As(err, &no) {
		return false
	}
	if no.Status >= 500 {
		t.errors++
	} else {
		t.refusals++
	}
	if t.refusals < l.q.lim.Refusals && t.errors < l.q.lim.Errors {
		return false
	}
	l.remove(t)
	l.q.opt.Log.Warn("message set aside", "channel", l.q.opt.Channel.Name, "message", t.ID, "error", err)
	l.q.settle(t, guestproto.MessageSetAside, no.Instance, no.Error())
	l.q.say(t.Chat, textSetAside)
	return true
}
