package hook

import (
	"crypto/rand"
	"io"
	"net/http"
	"time"

	"mvm"
	"mvm/internal/guest/chat"
	"mvm/internal/guest/chat/inbox"
	"mvm/internal/guest/chat/posted"
)

// Bounds of a request. WhatsApp sends up to 3 MB.
const (
	maxBody    = 3 << 20
	smallBody  = 64 << 10 // needs no room
	bodyTime   = 10 * time.Second
	answerTime = 10 * time.Second
	retryLater = "30" // seconds
)

// maxLarge bounds the large bodies that are read at once, over all channels of a gateway.
const maxLarge = 8

// Webhook implements chat.Adapter.
func (h *Hook) Webhook() (string, http.Handler) {
	return h.channel.HookPath(), http.HandlerFunc(h.receive)
}

// receive takes a request of the platform. It answers 200 once its messages are on the disk,
// and 503 where that can't be now: then the platform sends them again.
func (h *Hook) receive(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(h.shelf.bodyTime())) // a connection that can't have one has none
	body, status := h.body(w, r)
	_ = control.SetWriteDeadline(time.Now().Add(answerTime))
	if status != 0 {
		fail(w, status, http.StatusText(status))
		return
	}
	p, err := posted.Read(h.channel, posted.Request{Method: r.Method, Query: r.URL.Query(), Header: r.Header, Body: body}, time.Now())
	if err != nil {
		h.refuseRequest(w, err)
		return
	}
	if p.Answer != "" {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = io.WriteString(w, p.Answer)
		return
	}
	if err := h.Keep(p.Messages); err != nil {
		h.opt.Log.Warn("messages not kept", "channel", h.channel.Name, "messages", len(p.Messages), "error", err)
		h.refuseRequest(w, err)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// body reads the request's body, and returns a status where it can't be read.
func (h *Hook) body(w http.ResponseWriter, r *http.Request) ([]byte, int) {
	if r.ContentLength > maxBody {
		return nil, http.StatusRequestEntityTooLarge
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, smallBody+1))
	if err == nil && len(b) > smallBody {
		select {
		case h.shelf.large() <- struct{}{}:
			defer func() { <-h.shelf.large() }()
		default:
			w.Header().Set("Retry-After", retryLater)
			return nil, http.StatusServiceUnavailable
		}
		var rest []byte
		rest, err = io.ReadAll(io.LimitReader(r.Body, maxBody+1-int64(len(b))))
		b = append(b, rest...)
	}
	switch {
	case err != nil:
		return nil, http.StatusBadRequest
	case len(b) > maxBody:
		return nil, http.StatusRequestEntityTooLarge
	}
	return b, 0
}

// refuseRequest answers a request of which nothing is kept. Who sent it learns no more than
// whether to send it again.
func (h *Hook) refuseRequest(w http.ResponseWriter, err error) {
	switch mvm.KindOf(err) {
	case mvm.KindPolicy:
		h.queue.Refuse(chat.Message{}, "forged: "+err.Error())
		fail(w, http.StatusUnauthorized, "the request is not signed as this channel asks for")
	case mvm.KindInvalid:
		h.queue.Refuse(chat.Message{}, err.Error())
		fail(w, http.StatusBadRequest, "the request has no message that could be read")
	default: // a full disk or inbox, a missing secret
		w.Header().Set("Retry-After", retryLater)
		fail(w, http.StatusServiceUnavailable, "the message can't be kept now")
	}
}

func fail(w http.ResponseWriter, status int, text string) { http.Error(w, text, status) }

// Keep has the messages that the channel delivers on the disk when it returns, and then
// has them delivered. What it refuses is recorded.
func (h *Hook) Keep(messages []posted.Message) error {
	var wanted []inbox.Message
	for _, m := range messages {
		if why := h.why(m); why != "" {
			h.queue.Refuse(chat.Message{Chat: m.Chat}, why)
			continue
		}
		if m.ID == "" {
			m.ID = "mvm-" + rand.Text()
		}
		wanted = append(wanted, inbox.Message{Channel: h.channel.Name, ID: m.ID, Chat: m.Chat, Sender: m.Sender, Type: posted.Content, Body: m.Body,
			Urgent: m.Urgent, Track: h.extra.Run != nil})
	}
	if len(wanted) == 0 {
		return nil
	}
	box, err := h.shelf.open()
	if err != nil {
		return err
	}
	if err := h.opt.Flood.Room(len(wanted)); err != nil {
		return err
	}
	verdicts, err := box.Put(wanted...)
	if err != nil {
		return err
	}
	for n, v := range verdicts {
		if v == inbox.Kept && h.extra.Kept != nil {
			h.extra.Kept(wanted[n].ID)
		}
		if v == inbox.ChatFull {
			h.queue.Crowded(chat.Message{Chat: wanted[n].Chat})
		}
	}
	if now := h.shelf.trayOf(h.channel.Name); now != nil { // another one, where the channel has changed meanwhile
		return now.offer()
	}
	return nil
}

// Refuse records a message that is not to be delivered.
func (h *Hook) Refuse(chatID, why string) { h.queue.Refuse(chat.Message{Chat: chatID}, why) }

// Last tells, by chat, which message was kept last.
func (h *Hook) Last() (map[string]string, error) {
	box, err := h.shelf.open()
	if err != nil {
		return nil, err
	}
	return box.Last(h.channel.Name)
}
