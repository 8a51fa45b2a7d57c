package chat

import (
	"maps"
	"slices"
	"time"
)

// save has the disk have the debt of the message that is about to be posted, before it is: a
// gateway that ends just after has to know of it. The disk is written once for a message.
func (a *answers) save(key string, m Message) {
	q := a.q
	if q.opt.Disk == nil {
		return
	}
	q.mu.Lock()
	var d *debt
	if w := a.watches[key]; w != nil {
		d = w.chats[m.Chat]
	}
	if d == nil || d.message != m.ID || d.saved == m.ID {
		q.mu.Unlock()
		return
	}
	delete(a.paid, m.Chat) // it would be of an earlier message
	saved := Debt{Chat: m.Chat, Key: key, Instance: d.instance, Message: m.ID, Since: time.Now()}
	q.mu.Unlock()
	if err := q.opt.Disk.Owe(saved); err != nil { // the message is delivered all the same
		q.opt.Log.Warn("answer that is owed is not on the disk", "channel", q.opt.Channel.Name, "message", m.ID, "error", err)
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	d.saved = m.ID
	if now := a.watches[key]; now == nil || now.chats[m.Chat] != d {
		a.pay(m.Chat, d)
	}
}

// pay has the disk forget the debt soon. q.mu is held.
func (a *answers) pay(chat string, d *debt) {
	if d.saved == 0 || a.q.opt.Disk == nil {
		return
	}
	a.paid[chat] = Debt{Chat: chat, Message: d.saved}
	d.saved = 0
	if !a.paying {
		a.paying = a.q.goDo(a.writePaid)
	}
}

// writePaid writes until the disk has forgotten what is paid. Debts that are paid while it
// writes are written together.
func (a *answers) writePaid() {
	q := a.q
	for {
		q.mu.Lock()
		all := slices.Collect(maps.Values(a.paid))
		clear(a.paid)
		a.paying = len(all) > 0
		q.mu.Unlock()
		if len(all) == 0 {
			return
		}
		if err := q.opt.Disk.Paid(all); err != nil { // after a restart they are taken for owed
			q.opt.Log.Warn("answers that were sent are not noted", "channel", q.opt.Channel.Name, "answers", len(all), "error", err)
		}
	}
}

// Owing takes up the debts that an earlier run of the gateway has left. Until Delivered says
// so, the messages may come once more. What was sent before Owing counts; what it is told again
// does not.
func (q *Queue) Owing(left []Debt) {
	q.mu.Lock()
	defer q.mu.Unlock()
	a := &q.owed
	for _, l := range left {
		if a.debts >= maxDebts {
			return
		}
		w := a.watch(l.Key)
		if w.chats[l.Chat] != nil {
			continue
		}
		a.debts++
		w.instance = l.Instance
		d := &debt{life: life{instance: l.Instance, boot: -1}, message: l.Message, again: true, saved: l.Message, left: true}
		w.chats[l.Chat] = d
		if a.early[sending{l.Instance, l.Chat}] || a.early[sending{l.Instance, ""}] {
			d.sent = time.Now()
			a.pay(l.Chat, d)
		}
	}
	a.early = nil
}

// Delivered has the debts watched that an earlier run has left, but for those of messages that
// wait to be delivered once more: the platform keeps them, or the queue has them.
func (q *Queue) Delivered(waits func(id int64) bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, w := range q.owed.watches {
		for _, d := range w.chats {
			if d.left && d.accepted.IsZero() && q.byID[d.message] == nil && !waits(d.message) {
				d.accepted = time.Now()
				if d.sent.IsZero() { // what the worker has sent while there was no gateway is lost
					d.died = d.accepted
				}
			}
		}
		if len(w.owing()) > 0 && !w.running {
			w.running = q.goDo(w.run)
		}
	}
}
