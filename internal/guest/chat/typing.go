package chat

import (
	"context"
	"sync"
	"time"
)

// maxTyping bounds the chats that see signs of typing at once.
const maxTyping = 20

// typingTimeout bounds one sign.
const typingTimeout = 4 * time.Second

// typist shows in the chats of messages that wait that somebody works on an answer. Its
// goroutine runs while there are such chats.
type typist struct {
	q *Queue

	mu      sync.Mutex
	chats   map[string]int
	running bool
	news    chan string
}

// add counts a message of the chat. q.mu is held.
func (y *typist) add(chat string) {
	if chat == "" || y.q.opt.Platform == nil {
		return
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.chats == nil {
		y.chats, y.news = map[string]int{}, make(chan string, maxTyping)
	}
	if y.chats[chat] == 0 && len(y.chats) >= maxTyping {
		return
	}
	y.chats[chat]++
	if y.chats[chat] == 1 {
		select {
		case y.news <- chat:
		default:
		}
	}
	if !y.running {
		y.running = y.q.goDo(y.run)
	}
}

func (y *typist) remove(chat string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.chats[chat] > 1 {
		y.chats[chat]--
		return
	}
	delete(y.chats, chat)
}

func (y *typist) run() {
	tick := time.NewTicker(y.q.lim.Typing)
	defer tick.Stop()
	for {
		select {
		case chat := <-y.news:
			y.show(chat)
			continue
		default:
		}
		y.mu.Lock()
		if len(y.chats) == 0 || y.q.ctx.Err() != nil {
			y.running = false
			y.mu.Unlock()
			return
		}
		y.mu.Unlock()
		select {
		case chat := <-y.news:
			y.show(chat)
		case <-tick.C:
			for _, chat := range y.now() {
				y.show(chat)
			}
		case <-y.q.ctx.Done():
		}
	}
}

func (y *typist) now() (chats []string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for chat := range y.chats {
		chats = append(chats, chat)
	}
	return chats
}

func (y *typist) show(chat string) {
	ctx, cancel := context.WithTimeout(y.q.ctx, typingTimeout)
	defer cancel()
	if err := y.q.opt.Platform.Typing(ctx, chat); err != nil && y.q.ctx.Err() == nil {
		y.q.opt.Log.Debug("show typing", "channel", y.q.opt.Channel.Name, "error", err)
	}
}
