package telegram_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mvm"
	"mvm/internal/guest/chat"
	"mvm/internal/guest/chat/telegram"
	"mvm/internal/guestproto"
	"mvm/test/botapi"
)

// memoryAPI has requests served by a Bot API in this process, without a network, so that time
// can be made to pass.
type memoryAPI struct {
	api   *botapi.Server
	asked atomic.Int64
}

var errUnreachable = errors.New("no route to host")

func (m *memoryAPI) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	m.asked.Add(1)
	defer func() {
		if recover() != nil { // a connection that is cut
			err = errUnreachable
		}
	}()
	rec := httptest.NewRecorder()
	m.api.ServeHTTP(rec, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return rec.Result(), nil
}

// readyWorker is always awake and idle, and takes every message.
type readyWorker struct{ took atomic.Int64 }

func (w *readyWorker) Reach(context.Context, string, string, string) (chat.Lease, error) {
	return w, nil
}
func (*readyWorker) Preflight(context.Context, string, string) (guestproto.PreflightAck, error) {
	return guestproto.PreflightAck{Safe: true}, nil
}
func (*readyWorker) State(context.Context, string, string) (mvm.State, int, error) {
	return mvm.StateRunning, 1, nil
}

func (*readyWorker) Sync(context.Context, string, string, int) error { return nil }
func (*readyWorker) Instance() (string, int)                         { return "i-1", 1 }
func (*readyWorker) End()                                            {}

func (w *readyWorker) Dial(context.Context, int) (net.Conn, error) {
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		if r, err := http.ReadRequest(bufio.NewReader(there)); err == nil {
			_, _ = io.Copy(io.Discard, r.Body)
			w.took.Add(1)
			_, _ = io.WriteString(there, "HTTP/1.1 200 OK\r\nX-Openclaw-Delivery-Accepted: durable\r\nContent-Length: 0\r\n\r\n")
		}
	}()
	return here, nil
}

// TestAnHourOfTrouble: while Telegram can't be reached, refuses the token, or has another
// poller, the bot says why and asks seldom; when that has ended it delivers what was written
// meanwhile.
func TestAnHourOfTrouble(t *testing.T) {
	for name, c := range map[string]struct {
		begin, end func(*botapi.Server)
		why        string
		most       int64         // questions in the hour
		within     time.Duration // it is well again
	}{
		"Telegram is down": {func(s *botapi.Server) { s.SetDown(true) }, func(s *botapi.Server) { s.SetDown(false) },
			"can't be reached: no route to host", 70, time.Minute},
		"the token is revoked": {func(s *botapi.Server) { s.SetToken("111111:NEW") }, func(s *botapi.Server) { s.SetToken(token) },
			"set the secret telegram_token anew", 15, 5 * time.Minute},
		"another poller": {
			func(s *botapi.Server) {
				s.Fail(botapi.Fault{Method: "getupdates", Times: 1 << 30, Status: 409, Text: "Conflict: terminated by other getUpdates request"})
			},
			func(s *botapi.Server) { s.Heal() }, "another program receives this bot's messages", 730, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { anHour(t, c.begin, c.end, c.why, c.most, c.within) })
		})
	}
}

func anHour(t *testing.T, begin, end func(*botapi.Server), why string, most int64, within time.Duration) {
	m, w := &memoryAPI{api: botapi.New(token, nil)}, &readyWorker{}
	is := guestproto.Channel{Token: []byte(token), Key: []byte("k"), Channel: mvm.Channel{Name: "bot", Kind: mvm.ChannelTelegram, Secret: "telegram_token", Allow: []string{"7"}, APIRoot: "http://api",
		To: mvm.ChannelTarget{PoolID: "workers", Selector: mvm.ChannelSelector{From: "fixed:alice"}, TargetPort: 8787, Path: "/", Accept: mvm.AcceptDurable}}}
	bot := telegram.Open(chat.AdapterOptions{Channel: is, Workers: w, Recorder: &events{}, Log: slog.New(slog.DiscardHandler),
		HTTP: &http.Client{Transport: m}, Changed: func() {}})
	defer bot.Close()
	defer m.api.Close()
	time.Sleep(time.Second)
	if s := bot.Status(); s.State == chat.StateFailing {
		t.Fatalf("at first: %+v", s)
	}
	begin(m.api)
	time.Sleep(2 * time.Minute) // until the poll that waits has ended
	m.asked.Store(0)
	time.Sleep(time.Hour)
	if s := bot.Status(); s.State != chat.StateFailing || !strings.Contains(s.Detail, why) || strings.Contains(s.Detail, "REALTOKEN") {
		t.Errorf("after an hour: %+v, want %q", s, why)
	}
	if n := m.asked.Load(); n > most {
		t.Errorf("Telegram was asked %d times in the hour, want at most %d", n, most)
	}
	for n := range 3 {
		m.api.Write(7, 7, fmt.Sprint(n))
	}
	end(m.api)
	time.Sleep(within + time.Second)
	if s := bot.Status(); s.State != chat.StateReady || s.Detail != "" || w.took.Load() != 3 || len(m.api.Pending()) > 0 {
		t.Errorf("%s later: %+v, %d delivered, %d pending", within, s, w.took.Load(), len(m.api.Pending()))
	}
}

// TestPoisonUpdate: an update of a form that nobody knows holds up none behind it, however
// updates arrive.
func TestPoisonUpdate(t *testing.T) {
	for name, open := range map[string]func(*testing.T) *stage{"polling": func(t *testing.T) *stage { return newStage(t, nil).open() }, "webhook": webhookStage} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			s.api.Add(func(int64) map[string]any { return map[string]any{"message": "no message"} })
			s.api.Add(func(int64) map[string]any { return map[string]any{"message": map[string]any{"chat": []int{7}}} })
			s.api.Write(7, 7, "hello")
			s.until("confirmed", s.confirmed)
			if got := s.fleet.of("alice").texts(); len(got) != 1 || s.events.count("refused") != 2 || s.bot.Status().Refused != 2 {
				t.Errorf("accepted %q, %d refused", got, s.events.count("refused"))
			}
		})
	}
}
