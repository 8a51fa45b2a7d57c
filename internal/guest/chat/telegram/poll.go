package telegram

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"mvm/internal/guest/chat"
)

// Times of polling.
const (
	longPoll   = 50               // seconds that Telegram waits for an update
	pollGrace  = 15 * time.Second // for the answer to arrive after that
	lookEvery  = time.Second      // for more updates while some are not delivered yet
	pollLimit  = 100              // updates of one answer
	keepFrom   = 50               // updates that are not confirmed: what waits goes to the disk, so that Telegram shows more
	stepFactor = 2
)

// window are the updates that Telegram keeps for us, oldest first: the first ones are
// confirmed once they are settled.
type window struct {
	tickets []*ticket
	known   map[int64]bool
	confirm int64 // the offset that confirms what is settled; 0: nothing is to be confirmed
	probe   bool  // how the channel is shows with the next answer, which must not wait for a message
}

type ticket struct {
	id int64
	*chat.Ticket
}

// poll receives updates until the bot is closed.
//
// Telegram forgets an update once a higher offset is asked for. Without an offset it gives
// the oldest ones that it has not forgotten, so none is asked for but to confirm: after a
// quiet week Telegram numbers updates anew, and not always upwards.
func (b *Bot) poll() {
	w := window{known: map[int64]bool{}, probe: true}
	pause, first := firstPause, true
	for b.ctx.Err() == nil {
		w.settle()
		raw, err := b.getUpdates(&w)
		if err != nil {
			_, poller := conflict(err)
			w.probe = !poller // which shows only while both wait
			if b.ctx.Err() != nil || !chat.Wait(b.ctx, b.recover(err, pause)) {
				return
			}
			pause = min(stepFactor*pause, longestPause)
			continue
		}
		pause = firstPause
		b.standing.Tell(chat.StateReady, "")
		if first {
			first = false
			b.queue.Delivered(func(id int64) bool {
				return slices.ContainsFunc(raw, func(u json.RawMessage) bool { return number(u) == id })
			})
		}
		for _, u := range raw {
			b.take(&w, u)
		}
		b.keep(&w)
		b.await(&w)
	}
}

// getUpdates confirms what is settled and asks for more. It waits where nothing is left to
// be delivered.
func (b *Bot) getUpdates(w *window) (raw []json.RawMessage, err error) {
	timeout := longPoll
	if len(w.tickets) > 0 || w.confirm > 0 || w.probe { // a confirmation whose answer is lost is made again, soon
		timeout = 0
	}
	ctx, cancel := context.WithTimeout(b.ctx, time.Duration(timeout)*time.Second+pollGrace)
	defer cancel()
	if err := b.learnName(ctx); err != nil {
		return nil, err
	}
	params := map[string]any{"timeout": timeout, "limit": pollLimit, "allowed_updates": updates}
	if w.confirm > 0 {
		params["offset"] = w.confirm
	}
	err = b.api.call(ctx, "getUpdates", params, &raw)
	if err == nil {
		w.confirm, w.probe = 0, false
	}
	return raw, err
}

// conflict reports whether the bot's messages go elsewhere: to a webhook, or to another
// program that polls.
func conflict(err error) (webhook, poller bool) {
	var said *apiError
	if !errors.As(err, &said) || said.Code != http.StatusConflict {
		return false, false
	}
	webhook = strings.Contains(strings.ToLower(said.Text), "webhook")
	return webhook, !webhook
}

// recover does what can be done about an error, and returns for how long to wait.
func (b *Bot) recover(err error, pause time.Duration) time.Duration {
	if webhook, _ := conflict(err); webhook {
		ctx, cancel := context.WithTimeout(b.ctx, pollGrace)
		defer cancel()
		b.opt.Log.Info("remove a webhook that is left", "channel", b.channel.Name)
		if err = b.api.call(ctx, "deleteWebhook", map[string]any{"drop_pending_updates": false}, nil); err == nil {
			return 0
		}
	}
	return b.failed(err, pause)
}

// take offers an update, unless it is known. One that is not allowed is settled at once.
func (b *Bot) take(w *window, raw json.RawMessage) {
	m, why := b.sort(raw)
	if m.ID == 0 || w.known[m.ID] {
		return
	}
	t := &ticket{id: m.ID}
	if why != "" {
		b.queue.Refuse(m, why)
	} else {
		t.Ticket = b.queue.Offer(m)
	}
	w.known[m.ID] = true
	w.tickets = append(w.tickets, t)
}

// keep has the disk take what waits, where so much does that Telegram is about to show no more
// of what comes behind it. What can't be kept Telegram goes on to keep.
func (b *Bot) keep(w *window) {
	if b.opt.Disk == nil || len(w.tickets) < keepFrom {
		return
	}
	var waiting []*chat.Ticket
	for _, t := range w.tickets {
		if t.Ticket != nil {
			waiting = append(waiting, t.Ticket)
		}
	}
	if err := b.queue.Keep(waiting); err != nil {
		b.opt.Log.Warn("messages that wait are not kept on the disk", "channel", b.channel.Name, "messages", len(waiting), "error", err)
	}
}

// settle takes the first updates that are settled out of the window.
func (w *window) settle() {
	for len(w.tickets) > 0 {
		t := w.tickets[0]
		if t.Ticket != nil && !t.Kept() {
			select {
			case <-t.Done():
			default:
				return
			}
		}
		delete(w.known, t.id)
		w.tickets = w.tickets[1:]
		if t.Ticket == nil || t.Kept() || t.Settled() {
			w.confirm = t.id + 1
			continue
		}
		for _, later := range w.tickets { // all of them come again
			delete(w.known, later.id)
		}
		w.tickets = nil
	}
}

// await waits until something can be confirmed, or there may be more to deliver.
func (b *Bot) await(w *window) {
	if len(w.tickets) == 0 || w.tickets[0].Ticket == nil || w.tickets[0].Kept() {
		return
	}
	var more <-chan time.Time
	if len(w.tickets) < pollLimit {
		timer := time.NewTimer(lookEvery)
		defer timer.Stop()
		more = timer.C
	}
	select {
	case <-w.tickets[0].Done():
	case <-more:
	case <-b.ctx.Done():
	}
}
