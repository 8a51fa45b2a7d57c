package chat

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"mvm"
	"mvm/internal/guestproto"
)

// Message is one message for a worker. ID is the platform's, unique in the channel.
type Message struct {
	ID     int64
	Ref    string // what the platform calls it, where that is no number
	Chat   string // where signs of typing and mvm's own texts go; empty: nowhere
	Key    string // of the worker; empty: any that belongs to no key
	Body   []byte // JSON
	Urgent bool   // it does not wait for the worker to become idle

	Answered bool      // the worker is expected to answer it in its chat; see Queue.Sent
	Written  time.Time // when, where the platform says so; zero: it does not

	// Of a message that a Keeper has: its number there, and what the worker has answered so far.
	Kept             int64
	Refusals, Errors int
}

// Keeper keeps messages until they are delivered, for a platform that does not. A Message of
// it has no Body until Read. Its methods may be called concurrently.
type Keeper interface {
	// Check reports whether the message is still to be delivered. ErrGone: it is not. A
	// *Refusal: it never will be, and is set aside.
	Check(m Message) error
	// Read does as Check, and returns the message's body.
	Read(m Message) ([]byte, error)
	// Failed notes a try that failed. Where it counts, m says how many of them there were.
	Failed(m Message, counts bool, why string)
	// Settled notes what became of the message, before the next one of the worker.
	Settled(m Message, what, why string)
}

// ErrGone says of a message that it is not to be delivered any more.
var ErrGone = errors.New("the message is gone")

// ErrLater says of a message that the instance has it and is not done with it.
var ErrLater = errors.New("the worker is not done with the message")

// Ticket is a Message that was offered.
type Ticket struct {
	Message   // without its body
	offered   time.Time
	done      chan struct{}
	unsettled bool // the platform must keep it; valid once done is closed

	up   atomic.Bool  // the worker answers
	kept atomic.Int64 // the number by which a Disk has it; 0: it has not
	body []byte       // q.mu; nil: it is read where it is kept
}

// Done is closed when the message is delivered, set aside or refused, or the queue is closed.
func (t *Ticket) Done() <-chan struct{} { return t.done }

// Settled reports, once Done is closed, that the platform need not keep the message.
func (t *Ticket) Settled() bool { return !t.unsettled }

// QueueOptions are what a Queue works with. All but Platform, Limits, Header, Keeper, Disk,
// Flood, Deliver and Changed are required.
type QueueOptions struct {
	Channel  guestproto.Channel
	Workers  Workers
	Platform Platform // nil: mvm itself says nothing there
	Recorder Recorder
	Log      *slog.Logger
	Limits   Limits
	// Header is what an instance is shown with a message.
	Header func(instance string, m Message) http.Header
	// Keeper has the messages; nil: the platform has.
	Keeper Keeper
	// Disk can take messages over from the platform, and outlives the gateway; nil: there is
	// none. Where there is a Keeper it is not used.
	Disk Disk
	// Flood bounds what waits here and in other queues; nil: nothing does.
	Flood *Flood
	// Deliver hands a message to an instance; nil: a POST does, whose answer says all there is
	// to know. ErrLater: the instance works on the message, and is asked again once it is idle.
	Deliver func(ctx context.Context, lease Lease, m Message) error
	// Changed is called when messages wait for long, and when none does any more; nil: nobody
	// wants to know. It does not block.
	Changed func()
}

// Queue delivers the messages of a channel. Its methods may be called concurrently.
type Queue struct {
	opt    QueueOptions
	lim    Limits
	ctx    context.Context
	cancel context.CancelFunc
	group  sync.WaitGroup
	typist typist
	owed   answers

	mu     sync.Mutex
	closed bool
	lines  map[string]*line
	byID   map[int64]*Ticket
	byChat map[string]int
	full   map[string]bool // chats that were told that too many wait
	recent recentIDs
	counts Counts

	backlog backlog
}

// Counts are what a Queue has done since it was made.
type Counts struct {
	Waiting, Accepted, Refused, SetAside int
	Last                                 time.Time // when the last message was accepted
	Oldest                               time.Time // when the oldest that waits was offered
	Backlogs                             []guestproto.WorkerBacklog
}

// maxKept is how many messages of a channel wait where there is a Disk, which has bounds of its
// own.
const maxKept = 10_000

// NewQueue makes a queue of nothing.
func NewQueue(opt QueueOptions) *Queue {
	if opt.Disk != nil {
		opt.Limits.Waiting = cmp.Or(opt.Limits.Waiting, maxKept)
	}
	q := &Queue{opt: opt, lim: opt.Limits.withDefaults(), lines: map[string]*line{}, byID: map[int64]*Ticket{},
		byChat: map[string]int{}, full: map[string]bool{}}
	q.ctx, q.cancel = context.WithCancel(context.Background())
	q.typist.q = q
	q.owed = answers{q: q, watches: map[string]*watch{}, paid: map[string]Debt{}, sending: map[sending]int{}}
	if opt.Disk != nil {
		q.owed.early = map[sending]bool{}
	}
	return q
}

// Close gives up what waits, and waits for what is under way.
func (q *Queue) Close() {
	q.mu.Lock()
	q.closed = true
	if q.backlog.timer != nil {
		q.backlog.timer.Stop()
	}
	q.mu.Unlock()
	q.cancel()
	q.group.Wait()
	q.owed.writePaid()
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, t := range q.byID {
		t.unsettled = true
		close(t.done)
	}
	q.opt.Flood.add(-len(q.byID))
	clear(q.byID)
	clear(q.lines)
}

// goDo runs f in a goroutine that Close waits for; false: the queue is closed. q.mu is held.
func (q *Queue) goDo(f func()) bool {
	if q.closed {
		return false
	}
	q.group.Go(f)
	return true
}

// Offer takes a message for delivery. One that is known already is taken once.
func (q *Queue) Offer(m Message) *Ticket {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t := q.byID[m.ID]; t != nil {
		return t
	}
	t := &Ticket{Message: m, offered: time.Now(), done: make(chan struct{}), body: m.Body}
	t.Body = nil
	t.kept.Store(m.Kept)
	switch {
	case m.Kept == 0 && q.recent.has(m.ID):
		close(t.done)
		return t
	case q.closed, m.Kept == 0 && len(q.byID) >= q.lim.Waiting:
		t.unsettled = true
		close(t.done)
		return t
	case m.Kept == 0 && m.Chat != "" && q.byChat[m.Chat] >= q.lim.PerChat:
		q.crowded(t)
		return t
	case m.Kept == 0 && q.opt.Flood.Room(1) != nil:
		q.flooded(t)
		return t
	}
	q.opt.Flood.add(1)
	q.byID[m.ID] = t
	q.byChat[m.Chat]++
	l := q.lines[m.Key]
	if l == nil {
		l = &line{q: q, key: m.Key, news: make(chan struct{}, 1), nudge: make(chan struct{}, 1)}
		q.lines[m.Key] = l
		q.goDo(l.run)
	}
	l.add(t)
	q.typist.add(m.Chat)
	q.watchBacklog()
	return t
}

// Crowded refuses a message of a chat of which too many wait, and says so once.
func (q *Queue) Crowded(m Message) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.crowded(&Ticket{Message: m, done: make(chan struct{})})
}

// crowded refuses a message of a chat of which too many wait, and says so once. q.mu is held.
func (q *Queue) crowded(t *Ticket) {
	q.refuse(t, "too many messages of its chat wait")
	if !q.full[t.Chat] {
		q.full[t.Chat] = true
		q.goDo(func() { q.say(t.Chat, textCrowded) })
	}
}

// flooded refuses a message while too many of all channels wait, and says so once in a flood.
// q.mu is held.
func (q *Queue) flooded(t *Ticket) {
	q.refuse(t, "too many messages of the tenant wait")
	if q.opt.Flood.tell(q.opt.Channel.Name + "\x00" + t.Chat) {
		q.goDo(func() { q.say(t.Chat, textFlood) })
	}
}

// refuse settles a message that is not taken. q.mu is held.
func (q *Queue) refuse(t *Ticket, why string) {
	q.recent.add(t.ID)
	q.counts.Refused++
	close(t.done)
	q.record(t, guestproto.MessageRefused, "", why)
}

// Sending notes that the instance sends something to the chats, "" for one that is not known:
// until done nobody is told that there was no answer. done says whether the platform took it,
// and is called once, which the caller bounds in time.
func (q *Queue) Sending(instance string, chats []string) (done func(sent bool)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, chat := range chats {
		q.owed.sending[sending{instance, chat}]++
	}
	return func(sent bool) {
		q.mu.Lock()
		defer q.mu.Unlock()
		for _, chat := range chats {
			k := sending{instance, chat}
			if q.owed.sending[k]--; q.owed.sending[k] <= 0 {
				delete(q.owed.sending, k)
			}
			if sent {
				q.owed.sent(instance, chat)
			}
		}
	}
}

// owe notes that the message is about to be posted, and accept that it was accepted.
func (q *Queue) owe(key string, m Message, by life) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.owed.owe(key, m, by)
}

func (q *Queue) accept(key string, m Message, by life) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.owed.accept(key, m, by)
}

// saw takes in how a worker was; see answers.
func (q *Queue) saw(key string, now life, asked time.Time, ack guestproto.PreflightAck) (settled bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.owed.saw(key, now, asked, ack)
}

// Nudge has what waits after a failure tried at once.
func (q *Queue) Nudge() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range q.lines {
		select {
		case l.nudge <- struct{}{}:
		default:
		}
	}
}

// Refuse counts and records a message that is not to be delivered.
func (q *Queue) Refuse(m Message, why string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.counts.Refused++
	q.record(&Ticket{Message: m}, guestproto.MessageRefused, "", why)
}

// Counts returns what the queue has done.
func (q *Queue) Counts() Counts {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.counts
	c.Waiting, c.Oldest = len(q.byID), q.oldest()
	c.Backlogs = q.backlogs(time.Now())
	return c
}

// messageGone is what became of a message that a person has dropped.
const messageGone = ""

// settle ends the way of a ticket that was delivered, set aside or dropped.
func (q *Queue) settle(t *Ticket, what, instance, detail string) {
	defer func() { // when it is told, the message may be offered again
		if k := q.keeper(t); k != nil {
			k.Settled(t.message(), what, detail)
		}
	}()
	q.typist.remove(t.Chat)
	over := false
	defer func() {
		if over {
			q.opt.Changed()
		}
	}()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.owed.forget(t.Key, t.Message)
	switch what {
	case guestproto.MessageAccepted:
		q.counts.Accepted++
		q.counts.Last = time.Now()
	case guestproto.MessageSetAside:
		q.counts.SetAside++
	}
	if what != messageGone {
		q.record(t, what, instance, detail)
	}
	q.recent.add(t.ID)
	q.opt.Flood.add(-1)
	delete(q.byID, t.ID)
	if q.byChat[t.Chat]--; q.byChat[t.Chat] <= 0 {
		delete(q.byChat, t.Chat)
		delete(q.full, t.Chat)
	}
	over = q.backlogOver(t.Key)
	close(t.done)
}

func (q *Queue) record(t *Ticket, what, instance, detail string) {
	e := guestproto.MessageEvent{What: what, ID: t.ID, InstanceID: instance, Detail: detail}
	if t.Chat != "" {
		e.Chat = q.opt.Channel.Digest(t.Chat)
	}
	q.opt.Recorder.Record(q.opt.Channel.Name, e)
}

// Texts of mvm's own, to people in a chat.
const (
	textCrowded  = "You sent many messages at once. I did not take the last ones; please send them again later."
	textFlood    = "Too many messages are waiting at the moment. I did not take your last one; please send it again later."
	textSlow     = "Your assistant is still starting. Your message is kept and will be delivered."
	textSetAside = "Your assistant could not take your last message. Please send it again in another form."
	textDown     = "Your assistant is still starting: the last try failed. Your message is kept, and I keep trying."
	textBroken   = "Your assistant has a problem and takes no messages at the moment. Your message is kept and will be delivered."
	textExpired  = "Your message could not be delivered for a day. Please send it again."

	textInterrupted = "Your assistant was interrupted before it could answer your last message. Please send it again, or write “continue”."
	textUncertain   = "Your assistant was interrupted, and may not have answered your last message. If there is no answer, please send it again, or write “continue”."
	textUnfinished  = "Your assistant was interrupted, and may not have finished its last answer. If something is missing, please ask again."
)

// sayTimeout bounds one text to a chat.
const sayTimeout = 15 * time.Second

func (q *Queue) say(chat, text string) {
	if err := q.trySay(chat, text); err != nil {
		q.opt.Log.Warn("tell a chat", "channel", q.opt.Channel.Name, "error", err)
	}
}

func (q *Queue) trySay(chat, text string) error {
	if chat == "" || q.opt.Platform == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(q.ctx, sayTimeout)
	defer cancel()
	return q.opt.Platform.Say(ctx, chat, text)
}

// insist says it as soon as the platform takes it; false: the queue is closed before. What the
// platform refuses, or does not take for long, is given up.
func (q *Queue) insist(chat, text string) (over bool) {
	until := time.Now().Add(q.lim.GiveUp)
	for pause := q.lim.Retry; ; pause = min(2*pause, q.lim.RetryMax) {
		err := q.trySay(chat, text)
		if err == nil {
			return true
		}
		if q.ctx.Err() != nil {
			return false
		}
		q.opt.Log.Warn("tell a chat", "channel", q.opt.Channel.Name, "error", err)
		if mvm.IsKind(err, mvm.KindPolicy) || time.Now().After(until) {
			return true
		}
		if !Wait(q.ctx, pause) {
			return false
		}
	}
}

// recentIDs remembers the last messages that were settled.
type recentIDs struct {
	set  map[int64]bool
	ring [1024]int64
	n    int
}

func (r *recentIDs) has(id int64) bool { return r.set[id] }

func (r *recentIDs) add(id int64) {
	if r.set == nil {
		r.set = map[int64]bool{}
	}
	if r.set[id] {
		return
	}
	at := r.n % len(r.ring)
	if r.n >= len(r.ring) {
		delete(r.set, r.ring[at])
	}
	r.ring[at], r.set[id] = id, true
	r.n++
}
