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
	"mvm/internal/guestproto"
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
	if now := h.shelf.hook(h.channel.Name); now != nil { // another one, where the channel has changed meanwhile
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

// Check implements chat.Keeper.
func (h *Hook) Check(m chat.Message) error {
	_, err := h.due(m)
	return err
}

// due returns the inbox that has the message, which is still to be delivered.
func (h *Hook) due(m chat.Message) (*inbox.Inbox, error) {
	box, err := h.shelf.open()
	if err != nil {
		return nil, err
	}
	e, err := box.Entry(m.ID)
	switch {
	case mvm.IsKind(err, mvm.KindNotFound), err == nil && e.Aside:
		return nil, chat.ErrGone
	case err != nil:
		return nil, err
	case box.Old(e):
		return nil, &chat.Refusal{Final: true, Why: "it has waited for more than " + box.Age().String() + "; the last try: " + h.note(e)}
	}
	return box, nil
}

// Read implements chat.Keeper.
func (h *Hook) Read(m chat.Message) ([]byte, error) {
	box, err := h.due(m)
	if err != nil {
		return nil, err
	}
	body, err := box.Body(m.ID)
	if mvm.IsKind(err, mvm.KindInternal) {
		err = &chat.Refusal{Final: true, Why: err.Error()}
	}
	return body, err
}

// Failed implements chat.Keeper.
func (h *Hook) Failed(m chat.Message, counts bool, why string) {
	if !counts {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.notes[m.ID] = why
		return
	}
	h.written(m, "note a try", func(b *inbox.Inbox) error { return b.Failed(m.ID, m.Refusals, m.Errors, why) })
}

// Settled implements chat.Keeper.
func (h *Hook) Settled(m chat.Message, what, why string) {
	switch what {
	case guestproto.MessageAccepted:
		h.written(m, "forget what is delivered", func(b *inbox.Inbox) error { return b.Done(m.ID) })
	case guestproto.MessageSetAside:
		h.written(m, "set aside", func(b *inbox.Inbox) error { return b.SetAside(m.ID, why) })
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.notes, m.ID)
}

// written changes the inbox. What it can't write is done again after a restart: then a
// message may be delivered again.
func (h *Hook) written(m chat.Message, what string, change func(*inbox.Inbox) error) {
	box, err := h.shelf.open()
	if err == nil {
		err = change(box)
	}
	if err != nil && !mvm.IsKind(err, mvm.KindNotFound) {
		h.opt.Log.Error("inbox not changed", "channel", h.channel.Name, "message", m.ID, "change", what, "error", err)
	}
}

// note is why the last try to deliver the message failed.
func (h *Hook) note(e inbox.Entry) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if why := h.notes[e.Number]; why != "" {
		return why
	}
	return e.Why
}
