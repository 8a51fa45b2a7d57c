package telegram_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/test/botapi"
)

// told are the texts of mvm's own about answers that were interrupted.
func (s *stage) told() (out []string) {
	for _, m := range s.api.Sent() {
		if strings.Contains(m.Text, "was interrupted") {
			out = append(out, m.Text)
		}
	}
	return out
}

func (s *stage) answered(text string) bool {
	for _, m := range s.api.Sent() {
		if m.Text == "re: "+text {
			return true
		}
	}
	return false
}

// dies has the worker die once at the step.
func (s *stage) dies(step string, how func(w *worker)) {
	var once sync.Once
	s.fleet.hook = func(at string, w *worker) {
		if at == step {
			once.Do(func() { how(w) })
		}
	}
}

// TestLostAnswer: where a worker dies between its attempt to send an answer and the sending,
// however it dies, the chat is told so once; the next message waits for that, and is answered.
func TestLostAnswer(t *testing.T) {
	for name, how := range map[string]func(w *worker){
		"process": func(w *worker) { w.kill(false) },
		"machine": func(w *worker) { w.set(func() { w.disk = w.cache }); w.kill(true) },
		"machine that nobody starts": func(w *worker) {
			w.set(func() { w.disk, w.state = w.cache, mvm.StateStopped })
			w.kill(true)
		},
		"twice": func(w *worker) { w.kill(false); w.kill(false) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, nil)
			w := s.fleet.of("alice")
			w.speaks = true
			s.dies("tried", how)
			s.open()
			s.api.Write(7, 7, "hello")
			s.api.Write(7, 7, "and another")
			s.until("told", func() bool { return len(s.told()) > 0 })
			if s.answered("and another") {
				t.Error("the next message was answered before the chat was told")
			}
			s.until("the next one is answered", func() bool { return s.answered("and another") })
			s.api.Write(7, 7, "last")
			s.until("the last one is answered", func() bool { return s.answered("last") })
			if told := s.told(); len(told) != 1 || !strings.Contains(told[0], "before it could answer") || s.answered("hello") {
				t.Errorf("told %q, sent %+v", told, s.api.Sent())
			}
			if n := s.events.count(guestproto.ReplyInterrupted); n != 1 {
				t.Errorf("%d events", n)
			}
		})
	}
}

// TestLostAnswerWhileTelegramIsAway: a chat is told of its lost answer once Telegram takes that,
// and one that may not be written to holds nobody.
func TestLostAnswerWhileTelegramIsAway(t *testing.T) {
	for name, fault := range map[string]botapi.Fault{
		"cut off": {Method: "sendmessage", Times: 3},
		"busy":    {Method: "sendmessage", Times: 3, Status: 502},
		"blocked": {Method: "sendmessage", Times: 1, Status: 403, Text: "Forbidden: bot was blocked by the user"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, nil)
			w := s.fleet.of("alice")
			w.speaks = true
			s.dies("tried", func(w *worker) {
				s.api.Fail(fault)
				w.kill(false)
			})
			s.open()
			s.api.Write(7, 7, "hello")
			s.until("tried", func() bool { return len(s.api.Calls("sendMessage")) >= fault.Times })
			s.api.Write(7, 7, "last")
			s.until("answered", func() bool { return s.answered("last") })
			want := 1
			if fault.Status == 403 {
				want = 0
			}
			if told := s.told(); len(told) != want {
				t.Errorf("told %q", told)
			}
		})
	}
}

// TestUnfinishedAnswer: a chat that has got a part of an answer is told so, too.
func TestUnfinishedAnswer(t *testing.T) {
	s := newStage(t, nil)
	w := s.fleet.of("alice")
	w.speaks, w.drafts = true, true
	s.dies("tried", func(w *worker) { w.kill(false) })
	s.open()
	s.api.Write(7, 7, "hello")
	s.until("told", func() bool { return len(s.told()) > 0 })
	w.set(func() { w.drafts = false })
	s.api.Write(7, 7, "last")
	s.until("answered", func() bool { return s.answered("last") })
	if told := s.told(); len(told) != 1 || !strings.Contains(told[0], "may not have finished") {
		t.Errorf("told %q", told)
	}
}

// TestRecoveredAnswer: a worker that answers after all is nothing to tell of.
func TestRecoveredAnswer(t *testing.T) {
	s := newStage(t, nil)
	w := s.fleet.of("alice")
	w.speaks, w.hold = true, make(chan struct{})
	s.open()
	s.api.Write(7, 7, "hello")
	s.until("accepted", s.confirmed)
	hold := w.hold
	w.kill(false) // in the middle of the turn
	w.set(func() { w.hold = nil })
	close(hold)
	s.until("answered", func() bool { return s.answered("hello") })
	s.api.Write(7, 7, "last")
	s.until("the last one is answered", func() bool { return s.answered("last") })
	if told := s.told(); len(told) != 0 {
		t.Errorf("told %q", told)
	}
}

// TestNoAnswerIsNoLoss: a message that rightly gets no answer is nothing to tell of, while the
// worker lives and when it dies or sleeps later; nor is what is no message.
func TestNoAnswerIsNoLoss(t *testing.T) {
	s := newStage(t, nil).open()
	w := s.fleet.of("alice")
	s.api.Write(7, 7, "no reply")
	s.until("accepted", s.confirmed)
	idle := func() bool {
		looked := 0
		w.set(func() { looked = w.looks })
		return looked >= 2 // the first was before it got the message
	}
	s.until("the turn is seen to have ended", idle)
	w.kill(false)
	w.set(func() { w.hold, w.looks = make(chan struct{}), 0 })
	s.api.Add(func(int64) map[string]any {
		return map[string]any{"message_reaction": map[string]any{"user": map[string]any{"id": 7}, "chat": map[string]any{"id": 7}}}
	})
	s.until("accepted", s.confirmed)
	hold := w.hold
	w.kill(false)
	w.set(func() { w.hold = nil })
	close(hold)
	w.set(func() { w.speaks = true })
	s.api.Write(7, 7, "last")
	s.until("answered", func() bool { return s.answered("last") })
	if told := s.told(); len(told) != 0 {
		t.Errorf("told %q", told)
	}
}

// TestLostAnswerOfASleeper: a worker that died, was up again with nothing to answer, and went
// to sleep is not woken: the chat is told.
func TestLostAnswerOfASleeper(t *testing.T) {
	s := newStage(t, nil)
	s.lim.Recovery = time.Hour
	w := s.fleet.of("alice")
	w.speaks = true
	s.dies("tried", func(w *worker) { w.kill(false) })
	s.open()
	s.api.Write(7, 7, "hello")
	s.until("looked at", func() (ok bool) {
		w.set(func() { ok = w.looks > 5 })
		return ok
	})
	w.set(func() { w.state = mvm.StateSleeping })
	s.until("told", func() bool { return len(s.told()) == 1 })
}

// TestAnswerOnItsWay: a worker that dies while Telegram takes its answer has answered, however
// long that takes; its chat is not told that there was no answer.
func TestAnswerOnItsWay(t *testing.T) {
	for name, dies := range map[string]func(w *worker){
		"process":  func(w *worker) { w.set(func() { w.life, w.born, w.busy = w.life+1, time.Now(), false }) },
		"for good": func(w *worker) { w.set(func() { w.state = mvm.StateDestroyed }) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, nil)
			s.lim.GiveUp = 20 * time.Millisecond
			w := s.fleet.of("alice")
			w.speaks = true
			hold := make(chan struct{})
			s.api.Fail(botapi.Fault{Method: "sendmessage", Times: 1, Hold: hold})
			s.open()
			s.api.Write(7, 7, "hello")
			s.until("sent", func() bool { return len(s.api.Calls("sendMessage")) == 1 })
			s.until("confirmed", s.confirmed)
			dies(w)
			time.Sleep(6 * s.lim.Recovery) // who is too slow to look meanwhile says nothing wrong either
			close(hold)
			s.until("answered", func() bool { return s.answered("hello") })
			time.Sleep(2 * s.lim.Recovery)
			for _, told := range s.told() { // of one that is gone there may have been more to come
				if strings.Contains(told, "before it could answer") || name == "process" {
					t.Errorf("told %q", told)
				}
			}
		})
	}
}

// TestWorkerThatDoesNotComeBack: what can't answer any more is given up after a while.
func TestWorkerThatDoesNotComeBack(t *testing.T) {
	for name, how := range map[string]func(w *worker){
		"it can't be started":  func(w *worker) { w.state, w.reach = mvm.StateStopped, mvm.Errorf(mvm.KindUnavailable, "no room") },
		"it takes no messages": func(w *worker) { w.broken = true },
		"it is gone":           func(w *worker) { w.state = mvm.StateDestroyed },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, nil)
			s.lim.GiveUp = 100 * time.Millisecond
			w := s.fleet.of("alice")
			w.speaks = true
			s.dies("tried", func(w *worker) {
				w.set(func() { how(w) })
				w.kill(false)
			})
			s.open()
			s.api.Write(7, 7, "hello")
			s.until("told", func() bool { return len(s.told()) == 1 })
		})
	}
}

// TestWhatSendersAreTold: who waits for a worker that is not up is told what is known.
func TestWhatSendersAreTold(t *testing.T) {
	for want, how := range map[string]func(w *worker){
		"the last try failed":          func(w *worker) { w.reach = mvm.Errorf(mvm.KindUnavailable, "no room") },
		"takes no messages":            func(w *worker) { w.broken = true },
		"still starting. Your message": func(w *worker) { w.held = true },
	} {
		t.Run(want, func(t *testing.T) {
			s := newStage(t, nil)
			s.lim.Slow = 20 * time.Millisecond
			w := s.fleet.of("alice")
			how(w)
			s.open()
			s.api.Write(7, 7, "one")
			s.until("told", func() bool { return len(s.api.Sent()) == 1 })
			w.set(func() { w.reach, w.broken, w.held = nil, false, false })
			s.until("confirmed", s.confirmed)
			if sent := s.api.Sent(); len(sent) != 1 || !strings.Contains(sent[0].Text, want) {
				t.Errorf("told %+v", sent)
			}
		})
	}
}

// TestMessageThatTelegramForgets: a message that can't be delivered for so long that Telegram
// is about to forget it is set aside, and its sender told.
func TestMessageThatTelegramForgets(t *testing.T) {
	for name, how := range map[string]func(w *worker){
		"not up":     func(w *worker) { w.reach = mvm.Errorf(mvm.KindUnavailable, "no room") },
		"never idle": func(w *worker) { w.busy = true },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, nil)
			s.lim.Keep, s.lim.GiveUp = time.Second, 20*time.Millisecond
			how(s.fleet.of("alice"))
			s.open()
			s.api.Write(7, 7, "hello")
			s.until("told", func() bool { return len(s.api.Sent()) == 1 })
			if sent := s.api.Sent(); !strings.Contains(sent[0].Text, "send it again") || s.bot.Status().SetAside != 1 {
				t.Errorf("told %+v, status %+v", sent, s.bot.Status())
			}
			s.until("confirmed", s.confirmed)
		})
	}
}

// TestChaosOfAnswers: with kills at every step each message is answered once, or its chat is
// told that it was not; as often as that has happened, and not once more. (Where a worker dies
// right after it has sent an answer, its chat may be told that there may be more to it.)
func TestChaosOfAnswers(t *testing.T) {
	s := newStage(t, func(c *guestproto.Channel) { c.Allow, c.To.Selector.From = []string{"*"}, "chat" })
	var mu sync.Mutex
	n, lost := 0, map[int64]int{}
	s.fleet.hook = func(step string, w *worker) {
		mu.Lock()
		n++
		now := n%23 == 0
		if step == "tried" && now {
			lost[chatOf(w)]++
		}
		mu.Unlock()
		if now && (step == "tried" || step == "synced" || step == "stored") {
			w.kill(false)
		}
	}
	const chats, each = 10, 12
	for id := range int64(chats) {
		s.fleet.of(fmt.Sprint(100 + id)).speaks = true
	}
	s.open()
	for k := range each {
		for id := range int64(chats) {
			s.api.Write(100+id, 100+id, fmt.Sprint("message ", k))
		}
	}
	missing := func() (out []string) {
		got, told := map[string]int{}, map[int64]int{}
		for _, m := range s.api.Sent() {
			got[fmt.Sprint(m.Chat, " ", m.Text)]++
			if strings.Contains(m.Text, "before it could answer") {
				told[m.Chat]++
			}
		}
		for id := range int64(chats) {
			silent := 0
			for k := range each {
				switch got[fmt.Sprint(100+id, " re: message ", k)] {
				case 0:
					silent++
				case 1:
				default:
					t.Errorf("message %d of chat %d was answered twice", k, 100+id)
				}
			}
			if silent != told[100+id] {
				out = append(out, fmt.Sprintf("chat %d: %d without an answer, told %d times", 100+id, silent, told[100+id]))
			}
		}
		return out
	}
	s.until("confirmed", s.confirmed)
	for deadline := time.Now().Add(30 * time.Second); len(missing()) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q", missing())
		}
	}
	mu.Lock()
	defer mu.Unlock()
	t.Logf("%d steps, killed at the attempt to answer: %v", n, lost)
	if len(lost) == 0 {
		t.Error("no answer was lost")
	}
}

func chatOf(w *worker) (id int64) {
	_, _ = fmt.Sscan(w.key, &id)
	return id
}
