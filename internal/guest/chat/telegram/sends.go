package telegram

import (
	"bytes"
	"context"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// sends reports that a method shows something in a chat that may be an answer.
func sends(method string) bool {
	switch method {
	case "sendchataction", "sendmessagedraft":
		return false
	case "copymessage", "copymessages", "forwardmessage", "forwardmessages", "editmessagetext", "editmessagecaption", "editmessagemedia":
		return true
	}
	return strings.HasPrefix(method, "send")
}

// goneTime bounds a request whose worker has hung up.
const goneTime = 30 * time.Second

// serveSend passes on a request by which a worker may answer, and notes in which chat. chats
// are those that it names, where they are known already. One that is here as a whole is
// passed on also when the worker dies meanwhile: it would never send it again.
func (p *proxy) serveSend(w http.ResponseWriter, r *http.Request, c caller, body io.Reader, chats []string) {
	whole := chats != nil
	if !whole {
		chats, body, whole = peek(r, body)
	}
	if whole {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), proxyTime)
		defer cancel()
		stop := context.AfterFunc(r.Context(), func() {
			timer := time.NewTimer(goneTime)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-p.b.ctx.Done():
			case <-ctx.Done():
			}
			cancel()
		})
		defer stop()
		r = r.WithContext(ctx)
	}
	if len(chats) == 0 {
		chats = []string{""}
	}
	sent, done := false, p.b.queue.Sending(c.instance, chats)
	defer func() { done(sent) }()
	p.forward(w, r, c, body, nil, func() { sent = true })
}

// peek reads a small request, and returns the chats that it names; whole: it has read all of
// it. Nothing is refused here: the Bot API does so.
func peek(r *http.Request, body io.Reader) (chats []string, again io.Reader, whole bool) {
	query, _ := url.ParseQuery(r.URL.RawQuery)
	chats = ofValues(query)
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	form := kind == "application/x-www-form-urlencoded"
	switch {
	case r.Method == http.MethodGet || r.ContentLength == 0:
		return chats, body, true
	case kind != "application/json" && !form:
		return nil, body, false
	}
	b, err := io.ReadAll(io.LimitReader(body, maxSmall+1))
	if err != nil || len(b) > maxSmall {
		return nil, io.MultiReader(bytes.NewReader(b), body), false
	}
	if form {
		values, _ := url.ParseQuery(string(b))
		return append(chats, ofValues(values)...), bytes.NewReader(b), true
	}
	if v, err := decode(b); err == nil {
		collect(v, &chats)
	}
	return chats, bytes.NewReader(b), true
}
