package chat

import (
	"context"
	"maps"
	"time"

	"mvm"
	"mvm/internal/guestproto"
)

// answers watches whether workers answer what they have accepted. A worker whose process or
// machine dies in between may have nothing left to answer with: what it was about to send it
// never sends again. Then the chat is told, once.
//
// Where the queue has a Disk, that has the debts too, until something is sent to their chats:
// after an end of the gateway they are taken up. Without one nobody is told then.
//
// q.mu guards it, and is held by its methods' callers.
type answers struct {
	q       *Queue
	watches map[string]*watch // by the worker's key
	debts   int               // in all of them
	paid    map[string]Debt   // by chat; to be forgotten by the disk
	paying  bool              // a goroutine does that
	sending map[sending]int   // requests that are on their way to the platform
	early   map[sending]bool  // what was sent before the disk's debts were read; nil: they are
}

// sending is what an instance sends, and to which chat; "": it is not known.
type sending struct{ instance, chat string }

// maxDebts bounds the chats that are watched at once.
const maxDebts = 10_000

// life is one run of a worker's services. What a later one has accepted it has in memory.
type life struct {
	instance       string
	boot, restarts int
}

// watch are the chats that wait for answers of one worker. Its goroutine runs while there are
// some.
type watch struct {
	a    *answers
	key  string
	news chan struct{} // something was sent, or accepted

	// Guarded by q.mu.
	instance string // which the worker was last
	chats    map[string]*debt
	seen     life // at the last look
	running  bool
	telling  int       // texts that are on their way
	idle     time.Time // since when the worker has been idle without a break; zero: it is not
	started  bool      // a lost worker was started, so that it goes on with what it has accepted
}

// debt is a chat that waits for an answer.
type debt struct {
	life               // that the message went to
	message  int64     // the last one
	accepted time.Time // when it was; zero: it was not yet
	sent     time.Time // when something was sent to the chat since it was posted; zero: nothing was
	again    bool      // it was posted to an earlier life, which may have had it, too
	saved    int64     // the message with which the disk has it; 0: it has not
	left     bool      // by an earlier run of the gateway
	died     time.Time // when the life was seen to have ended; zero: it goes on
}

// owe notes that the message is about to be posted to the worker: its answer may come before
// the worker's word that it has accepted it. Until accepted it is not watched.
func (a *answers) owe(key string, m Message, by life) {
	if !m.Answered || m.Chat == "" || a.q.opt.Platform == nil {
		return
	}
	w := a.watch(key)
	d := w.chats[m.Chat]
	switch {
	case d != nil && !d.died.IsZero(): // that is told first
		return
	case d != nil && d.message == m.ID && d.accepted.IsZero(): // it is tried again
		d.again = d.again || d.life != by
		d.life = by
		return
	case d == nil && a.debts >= maxDebts:
		return
	case d == nil:
		a.debts++
		d = &debt{}
		w.chats[m.Chat] = d
	}
	d.life, d.message, d.sent, d.again, d.left = by, m.ID, time.Time{}, false, false
}

// watch is that of the worker, made when there is none.
func (a *answers) watch(key string) *watch {
	w := a.watches[key]
	if w == nil {
		w = &watch{a: a, key: key, news: make(chan struct{}, 1), chats: map[string]*debt{}}
		a.watches[key] = w
	}
	return w
}

// accept notes that the worker has accepted the message, which is watched from now on.
func (a *answers) accept(key string, m Message, by life) {
	w := a.watches[key]
	if w == nil || w.chats[m.Chat] == nil || w.chats[m.Chat].message != m.ID {
		return
	}
	d := w.chats[m.Chat]
	d.accepted = time.Now()
	if d.again && d.sent.IsZero() {
		d.died = d.accepted
	}
	w.instance = by.instance
	w.poke()
	if !w.running {
		w.running = a.q.goDo(w.run)
	}
}

// forget ends the watch of a message that was not accepted.
func (a *answers) forget(key string, m Message) {
	w := a.watches[key]
	if w == nil {
		return
	}
	if d := w.chats[m.Chat]; d != nil && d.message == m.ID && d.accepted.IsZero() {
		w.drop(m.Chat)
	}
	w.end()
}

// sent notes that the instance has sent something to the chat; "": to one that is not known.
func (a *answers) sent(instance, chat string) {
	if a.early != nil && len(a.early) < maxDebts {
		a.early[sending{instance, chat}] = true
	}
	for _, w := range a.watches {
		for in, d := range w.chats {
			if in != chat && chat != "" || w.instance != instance && d.instance != instance {
				continue
			}
			d.sent = time.Now()
			a.pay(in, d)
			if !d.died.IsZero() { // it goes on with it in this life
				d.died, d.life = time.Time{}, life{instance: instance, boot: -1}
			}
			w.poke()
		}
	}
}

// sends reports that something is on its way to the chat, which may be what it waits for.
func (w *watch) sends(chat string, d *debt) bool {
	for _, by := range []string{w.instance, d.instance} {
		if w.a.sending[sending{by, chat}] > 0 || w.a.sending[sending{by, ""}] > 0 {
			return true
		}
	}
	return false
}

// saw takes in how the worker was when it was asked, and reports whether a message would not get between the
// recovery of a worker that has died and what it still has to answer.
func (a *answers) saw(key string, now life, asked time.Time, ack guestproto.PreflightAck) (settled bool) {
	w := a.watches[key]
	if w == nil {
		return true
	}
	if now.instance == w.seen.instance { // who has a lease since before it booted anew knows the old boot
		now.boot = max(now.boot, w.seen.boot)
	}
	w.instance = now.instance
	idle := ack.Safe && !ack.Held
	switch {
	case !idle:
		w.idle = time.Time{}
	case w.idle.IsZero() || w.seen != now:
		w.idle = time.Now()
	}
	w.seen = now
	born := time.Now().Add(-time.Duration(ack.AgeMS) * time.Millisecond)
	settled = true
	for chat, d := range w.chats {
		if d.accepted.IsZero() {
			continue
		}
		if d.boot < 0 || d.sent.After(born) { // it was sent by the present life
			d.life = now
		}
		if d.life != now && d.died.IsZero() {
			d.died = time.Now()
		}
		switch {
		case d.died.IsZero():
			if idle && asked.After(d.accepted) { // it has ended its turn, with an answer or with none
				w.drop(chat)
			}
		case idle && time.Since(w.idle) >= a.q.lim.Recovery && !w.sends(chat, d):
			w.tell(chat, d)
		default:
			settled = false
		}
	}
	return settled && w.telling == 0
}

// drop ends the watch of a chat. q.mu is held.
func (w *watch) drop(chat string) {
	w.a.pay(chat, w.chats[chat])
	delete(w.chats, chat)
	w.a.debts--
}

// tell says in the chat that its answer was interrupted. q.mu is held.
func (w *watch) tell(chat string, d *debt) {
	saved := d.saved
	d.saved = 0 // until it is told
	w.drop(chat)
	q, text := w.a.q, textInterrupted
	switch {
	case !d.sent.IsZero():
		text = textUnfinished
	case d.left:
		text = textUncertain
	}
	q.record(&Ticket{Message: Message{ID: d.message, Chat: chat}}, guestproto.ReplyInterrupted, w.instance, "the worker died before it had answered")
	q.opt.Log.Warn("answer interrupted", "channel", q.opt.Channel.Name, "message", d.message, "instance", w.instance)
	w.telling++
	q.goDo(func() {
		over := q.insist(chat, text)
		q.mu.Lock()
		defer q.mu.Unlock()
		if over {
			w.a.pay(chat, &debt{saved: saved})
		}
		w.telling--
		w.end()
	})
}

func (w *watch) poke() {
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// run looks at the worker until nothing is owed.
func (w *watch) run() {
	lim := w.a.q.lim
	for pause := lim.Look; ; pause = min(pause*3/2, lim.LookMax) {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-w.news: // the end of the turn is near
			timer.Stop()
			if !Wait(w.a.q.ctx, lim.Look) {
				return
			}
			pause = lim.Look
		case <-w.a.q.ctx.Done():
			timer.Stop()
			return
		}
		if w.look() {
			return
		}
	}
}

// look asks how the worker is, and reports whether nothing is owed any more.
func (w *watch) look() (done bool) {
	q := w.a.q
	w.a.q.mu.Lock()
	instance := w.instance
	w.a.q.mu.Unlock()
	ctx, cancel := context.WithTimeout(q.ctx, preflightTimeout)
	defer cancel()
	pool := q.opt.Channel.To.PoolID
	asked := time.Now()
	state, boot, err := q.opt.Workers.State(ctx, pool, instance)
	switch {
	case q.ctx.Err() != nil:
		return true
	case err != nil: // the host is away
	case state == mvm.StateDestroyed:
		w.lost(true)
	case state == mvm.StateRunning:
		if ack, err := q.opt.Workers.Preflight(ctx, pool, instance); err == nil {
			q.saw(w.key, life{instance, boot, ack.Restarts}, asked, ack)
		}
	case state == mvm.StateSleeping || state == mvm.StateWarm:
		w.asleep(boot)
	default:
		w.restart()
	}
	return w.over()
}

// over gives up what nobody can answer, and ends the watch where nothing is left.
func (w *watch) over() bool {
	w.a.q.mu.Lock()
	defer w.a.q.mu.Unlock()
	for chat, d := range w.owing() {
		if !d.died.IsZero() && w.idle.IsZero() && time.Since(d.died) >= w.a.q.lim.GiveUp && !w.sends(chat, d) {
			w.tell(chat, d)
		}
	}
	w.running = len(w.owing()) > 0
	w.end()
	return !w.running
}

// end forgets a watch of nothing. q.mu is held.
func (w *watch) end() {
	if len(w.chats) == 0 && !w.running && w.telling == 0 {
		delete(w.a.watches, w.key)
	}
}

// owing are the debts of messages that were accepted. q.mu is held.
func (w *watch) owing() map[string]*debt {
	out := maps.Clone(w.chats)
	maps.DeleteFunc(out, func(_ string, d *debt) bool { return d.accepted.IsZero() })
	return out
}

// asleep: what has gone to sleep had nothing left to do.
func (w *watch) asleep(boot int) {
	w.a.q.mu.Lock()
	defer w.a.q.mu.Unlock()
	for chat, d := range w.owing() {
		if d.died.IsZero() && (d.boot < 0 || d.boot == boot) {
			w.drop(chat)
			continue
		}
		if !w.sends(chat, d) {
			w.tell(chat, d)
		}
	}
}

// lost notes that the worker's machine is gone; for good: nobody goes on with what it had
// accepted.
func (w *watch) lost(forGood bool) {
	w.a.q.mu.Lock()
	defer w.a.q.mu.Unlock()
	w.idle = time.Time{}
	for chat, d := range w.owing() {
		if d.died.IsZero() {
			d.died = time.Now()
		}
		if forGood && !w.sends(chat, d) {
			w.tell(chat, d)
		}
	}
}

// restart has a worker whose machine is gone started, once, so that it goes on with what it
// has accepted.
func (w *watch) restart() {
	w.lost(w.started)
	if w.started {
		return
	}
	q := w.a.q
	lease, err := q.opt.Workers.Reach(q.ctx, q.opt.Channel.Name, q.opt.Channel.To.PoolID, w.key)
	if err != nil {
		q.opt.Log.Info("worker that has died not started yet", "channel", q.opt.Channel.Name, "error", err)
		return
	}
	defer lease.End()
	instance, _ := lease.Instance()
	w.a.q.mu.Lock()
	defer w.a.q.mu.Unlock()
	w.instance, w.started = instance, true
}
