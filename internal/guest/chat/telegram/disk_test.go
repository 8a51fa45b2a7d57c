package telegram_test

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guest/chat"
	"mvm/internal/guest/chat/hook"
	"mvm/internal/guest/chat/inbox"
	"mvm/internal/guest/chat/telegram"
	"mvm/internal/guestproto"
)

// disk is what a bot has of the gateway's data disk. Once the gateway is dead it is written no
// more.
type disk struct {
	chat.Disk
	opt         chat.AdapterOptions
	dead        atomic.Bool
	owed, paid  atomic.Int64 // writes
	keeps, full atomic.Int64
	debts       chan struct{} // not nil: what is owed can't be read before it is closed
}

func (d *disk) Debts() ([]chat.Debt, error) {
	if d.debts != nil {
		<-d.debts
	}
	return d.Disk.Debts()
}

var errDead = errors.New("the gateway is dead")

func (d *disk) Owe(o chat.Debt) error {
	if d.dead.Load() {
		return errDead
	}
	d.owed.Add(1)
	return d.Disk.Owe(o)
}

func (d *disk) Paid(all []chat.Debt) error {
	if d.dead.Load() {
		return errDead
	}
	d.paid.Add(1)
	return d.Disk.Paid(all)
}

func (d *disk) Keep(all []chat.Message) ([]int64, error) {
	d.keeps.Add(1)
	if d.full.Load() > 0 {
		return nil, syscall.ENOSPC
	}
	return d.Disk.Keep(all)
}

func (d *disk) Begin(q *chat.Queue, of func([]byte) (chat.Message, error)) error {
	if d.full.Load() > 0 {
		return syscall.ENOSPC
	}
	return d.Disk.Begin(q, of)
}

func (d *disk) Settled(m chat.Message, what, why string) {
	if !d.dead.Load() {
		d.Disk.Settled(m, what, why)
	}
}

// withDisk gives the gateway a data disk.
func (s *stage) withDisk() *stage {
	s.shelf = &hook.Shelf{Path: filepath.Join(s.t.TempDir(), "mvm", "inbox.db"), Ready: func() error { return nil }, Log: slog.New(slog.DiscardHandler)}
	s.t.Cleanup(func() {
		s.bot.Close()
		if err := s.shelf.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return s
}

// paid reports that the disk has no answer that is owed.
func (s *stage) paid() bool {
	left, err := s.disk.Debts()
	return err == nil && len(left) == 0
}

// nothingKept reports that no message waits on the disk for its worker: what is confirmed is
// delivered then.
func (s *stage) nothingKept() bool {
	if s.shelf == nil {
		return true
	}
	entries, err := s.shelf.Entries()
	return err == nil && len(entries) == 0
}

// gatewayDies kills the gateway, and starts it anew: what it had in memory is gone.
func (s *stage) gatewayDies() {
	s.disk.dead.Store(true)
	s.bot.Close()
	s.open()
}

// TestLostAnswerOfBoth: where the gateway dies together with the worker, or while the worker
// sends, the chat is told so by the next gateway, once; the next message is answered after that.
func TestLostAnswerOfBoth(t *testing.T) {
	for name, how := range map[string]func(s *stage, w *worker){
		"gateway and process": func(_ *stage, w *worker) { w.kill(false) },
		"gateway and machine": func(_ *stage, w *worker) { w.set(func() { w.disk = w.cache }); w.kill(true) },
		"gateway alone":       func(_ *stage, w *worker) { w.set(func() { w.mute = true }) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, nil).withDisk()
			w := s.fleet.of("alice")
			w.speaks = true
			confirmed, died := make(chan struct{}), make(chan struct{})
			s.dies("tried", func(w *worker) {
				<-confirmed
				s.disk.dead.Store(true)
				how(s, w)
				close(died)
			})
			s.open()
			s.api.Write(7, 7, "hello")
			s.until("confirmed", s.confirmed)
			close(confirmed)
			<-died
			s.until("the turn is over", func() (over bool) { w.set(func() { over = !w.busy }); return over })
			s.gatewayDies()
			w.set(func() { w.mute = false })
			s.api.Write(7, 7, "and another")
			s.until("told", func() bool { return len(s.told()) > 0 })
			s.until("the next one is answered", func() bool { return s.answered("and another") })
			s.until("the disk knows of all answers", s.paid)
			s.gatewayDies()
			s.api.Write(7, 7, "last")
			s.until("the last one is answered", func() bool { return s.answered("last") })
			if told := s.told(); len(told) != 1 || !strings.Contains(told[0], "may not have answered") || s.answered("hello") {
				t.Errorf("told %q, sent %+v", told, s.api.Sent())
			}
			if n := s.events.count(guestproto.ReplyInterrupted); n != 1 {
				t.Errorf("%d events", n)
			}
		})
	}
}

// TestAnswersBeforeTheGatewayDied: what was answered, before or after, is nothing to tell of. The disk
// is written at most once for a message and once for its answer.
func TestAnswersBeforeTheGatewayDied(t *testing.T) {
	s := newStage(t, nil).withDisk()
	w := s.fleet.of("alice")
	w.speaks = true
	s.open()
	const messages = 5
	for n := range messages {
		text := fmt.Sprint("message ", n)
		s.api.Write(7, 7, text)
		s.until("answered", func() bool { return s.answered(text) })
	}
	s.until("the disk knows of all answers", s.paid)
	if owed, paid := s.disk.owed.Load(), s.disk.paid.Load(); owed != messages || paid > messages || s.disk.keeps.Load() != 0 {
		t.Errorf("the disk was written %d times for messages, %d times for answers, %d times to keep messages", owed, paid, s.disk.keeps.Load())
	}
	w.set(func() { w.hold = make(chan struct{}) })
	s.api.Write(7, 7, "a long turn")
	s.until("accepted", s.confirmed)
	s.gatewayDies()
	w.set(func() { close(w.hold); w.hold = nil })
	s.until("answered", func() bool { return s.answered("a long turn") })
	s.api.Write(7, 7, "last")
	s.until("answered", func() bool { return s.answered("last") })
	if told := s.told(); len(told) != 0 {
		t.Errorf("told %q", told)
	}
}

// TestAnswerBeforeTheDebtsAreRead: an answer that a worker sends as soon as the next gateway is
// there, before that has read what is owed, is an answer.
func TestAnswerBeforeTheDebtsAreRead(t *testing.T) {
	s := newStage(t, nil).withDisk()
	w := s.fleet.of("alice")
	w.speaks, w.hold = true, make(chan struct{})
	s.open()
	s.api.Write(7, 7, "a long turn")
	s.until("accepted", s.confirmed)
	s.disk.dead.Store(true)
	s.bot.Close()
	s.debts = make(chan struct{})
	s.open()
	w.set(func() { close(w.hold); w.hold = nil })
	s.until("answered", func() bool { return s.answered("a long turn") })
	close(s.debts)
	s.until("the disk knows of the answer", s.paid)
	s.api.Write(7, 7, "last")
	s.until("answered", func() bool { return s.answered("last") })
	if told := s.told(); len(told) != 0 {
		t.Errorf("told %q", told)
	}
}

// TestStuckChat: where the worker of one chat is not up, all other chats go on, however much
// they write, and what waits for it is kept by the gateway's disk, also when the gateway dies.
func TestStuckChat(t *testing.T) {
	s := newStage(t, func(c *guestproto.Channel) { c.Allow, c.To.Selector.From = []string{"*"}, "chat" }).withDisk()
	stuck := s.fleet.of("50")
	stuck.reach = mvm.Errorf(mvm.KindUnavailable, "no room")
	s.open()
	s.api.Write(50, 50, "first")
	const chats, each = 10, 25
	for n := range chats * each {
		id := int64(100 + n%chats)
		s.api.Write(id, id, fmt.Sprint("message ", n/chats))
	}
	s.api.Write(50, 50, "second")
	s.until("the others have theirs", func() bool {
		for n := range chats {
			if len(s.fleet.of(fmt.Sprint(100+n)).texts()) != each {
				return false
			}
		}
		return true
	})
	if st := s.bot.(chat.Inspector).Inspect(t.Context()); st.Inbox == nil || st.Inbox.Waiting == 0 || st.Waiting == 0 {
		t.Errorf("status %+v", st)
	}
	s.until("of what waits the gateway has the first", func() bool {
		entries, err := s.shelf.Entries()
		return err == nil && slices.ContainsFunc(entries, func(e inbox.Entry) bool { return e.Chat == "50" })
	})
	s.gatewayDies()
	s.api.Write(50, 50, "third")
	stuck.set(func() { stuck.reach = nil })
	s.until("confirmed", s.confirmed)
	s.until("all in order", func() bool { return slices.Equal(stuck.texts(), []string{"first", "second", "third"}) })
	s.until("the inbox is empty", s.nothingKept)
}

// TestStuckChatAndFullDisk: on a disk that is full from the beginning nothing can be kept. It
// stays at Telegram, and is delivered from there.
func TestStuckChatAndFullDisk(t *testing.T) {
	s := newStage(t, func(c *guestproto.Channel) { c.Allow, c.To.Selector.From = []string{"*"}, "chat" }).withDisk()
	stuck := s.fleet.of("50")
	stuck.reach = mvm.Errorf(mvm.KindUnavailable, "no room")
	s.open()
	s.disk.full.Store(1)
	s.bot.Close()
	s.bot = telegram.Open(s.disk.opt)
	s.api.Write(50, 50, "first")
	for n := range int64(70) {
		s.api.Write(100+n, 100+n, "hello")
	}
	s.until("it was tried", func() bool { return s.disk.keeps.Load() > 0 })
	if len(s.api.Pending()) == 0 {
		t.Error("what is kept nowhere was confirmed")
	}
	stuck.set(func() { stuck.reach = nil })
	s.until("confirmed", s.confirmed)
	if got := stuck.texts(); !slices.Equal(got, []string{"first"}) {
		t.Errorf("it has %q", got)
	}
}

// TestKeptMessages: a person sees what a bot's messages wait for, and can give one up.
func TestKeptMessages(t *testing.T) {
	s := newStage(t, func(c *guestproto.Channel) { c.Allow, c.To.Selector.From = []string{"*"}, "chat" }).withDisk()
	stuck := s.fleet.of("50")
	stuck.reach = mvm.Errorf(mvm.KindUnavailable, "no room")
	s.open()
	for range 60 {
		s.api.Write(50, 50, "hello") // ten are too many for one chat
	}
	var kept []inbox.Entry
	s.until("kept", func() bool {
		var err error
		kept, err = s.shelf.Entries()
		return err == nil && len(kept) == 50 && s.confirmed()
	})
	s.until("why it waits", func() bool {
		kept, _ = s.shelf.Entries()
		return strings.Contains(kept[0].Why, "no room")
	})
	if err := s.shelf.Drop(kept[0].Number); err != nil {
		t.Fatal(err)
	}
	stuck.set(func() { stuck.reach = nil })
	if err := s.shelf.Retry(kept[1].Number); err != nil {
		t.Fatal(err)
	}
	s.until("all but the first are delivered", func() bool { return len(stuck.texts()) == 49 })
	time.Sleep(time.Millisecond)
	if n := len(stuck.texts()); n != 49 {
		t.Errorf("%d are delivered", n)
	}
}
