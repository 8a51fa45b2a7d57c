// Package hook is the adapter of platforms that post messages and do not keep one that was
// answered: Slack, the WhatsApp Cloud API, LINE, and whatever signs its requests.
//
// A request is checked by the platform's rule (package posted), and its messages by the
// channel's allowlist. What is left is in the inbox, on the disk, before the platform has
// its answer. From there a chat.Queue delivers it, whatever happens meanwhile: what is in
// the inbox when the gateway starts is delivered first.
package hook

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"mvm"
	"mvm/internal/guest/chat"
	"mvm/internal/guest/chat/inbox"
	"mvm/internal/guest/chat/posted"
	"mvm/internal/guestproto"
)

// Hook is one channel. Its methods may be called concurrently.
type Hook struct {
	*Tray
	newcomers *chat.Newcomers
	group     sync.WaitGroup
	ctx       context.Context
	cancel    context.CancelFunc
	standing  *chat.Standing
	extra     Extra
}

var _ chat.Adapter = (*Hook)(nil)

// Opener returns what opens channels that keep their messages on the shelf.
func Opener(shelf *Shelf) func(chat.AdapterOptions) chat.Adapter {
	return func(opt chat.AdapterOptions) chat.Adapter {
		h := New(opt, shelf, Extra{})
		h.Begin()
		return h
	}
}

// Extra is what a channel has whose platform does not post. All or none of it is there.
type Extra struct {
	Platform chat.Platform
	Deliver  func(ctx context.Context, lease chat.Lease, m chat.Message) error
	// Run receives messages until ctx ends, once the inbox is open, and tells how the channel
	// is; damage says what is wrong with the inbox.
	Run func(ctx context.Context, damage func() string)
	// Kept is told of a message that was kept just now, before it is delivered.
	Kept func(id string)
	// Standing is where Run tells.
	Standing *chat.Standing
}

// New makes a channel that keeps its messages on the shelf, and does nothing until Begin.
func New(opt chat.AdapterOptions, shelf *Shelf, x Extra) *Hook {
	c := opt.Channel
	h := &Hook{Tray: shelf.tray(opt), newcomers: chat.NewNewcomers(c.Channel), standing: x.Standing, extra: x}
	if h.standing == nil {
		h.standing = chat.NewStanding(opt)
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	limits := opt.Limits
	limits.Waiting, limits.PerChat = inbox.MaxWaiting, inbox.MaxWaiting // the inbox has the bounds
	h.queue = chat.NewQueue(chat.QueueOptions{Channel: c, Workers: opt.Workers, Recorder: opt.Recorder, Log: opt.Log,
		Limits: limits, Keeper: h.Tray, Flood: opt.Flood, Header: h.header, Platform: x.Platform, Deliver: x.Deliver, Changed: opt.Changed})
	h.message, h.damaged = h.messageOf, h.tellDamage
	return h
}

// Begin has the channel receive and deliver messages.
func (h *Hook) Begin() {
	h.shelf.enter(h.Tray)
	h.group.Go(h.begin)
}

// Pauses of a channel whose inbox can't be opened.
const (
	firstPause   = time.Second
	longestPause = time.Minute
)

// begin offers what the inbox has, as soon as it can be opened.
func (h *Hook) begin() {
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := h.offer()
		lacks := h.lacks()
		switch {
		case err != nil:
			h.standing.Tell(chat.StateFailing, err.Error())
		case lacks != nil: // with it comes another adapter
			h.standing.Tell(chat.StateFailing, lacks.Error())
			return
		case h.extra.Run != nil:
			h.extra.Run(h.ctx, h.shelf.damage)
			return
		default:
			h.standing.Tell(chat.StateReady, h.shelf.damage())
			return
		}
		if !chat.Wait(h.ctx, pause) {
			return
		}
	}
}

// lacks says which secret the channel needs and the tenant does not have; nil: none.
func (h *Hook) lacks() error {
	_, err := h.channel.Bare()
	if err == nil && h.channel.VerifySecret != "" {
		_, err = h.channel.BareVerify()
	}
	return err
}

func (h *Hook) messageOf(e inbox.Entry) (chat.Message, error) {
	return chat.Message{ID: e.Number, Kept: e.Number, Ref: e.ID, Urgent: e.Urgent, Chat: e.Chat, Key: chat.KeyOf(h.channel.Channel, e.Sender, e.Chat), Refusals: e.Refusals, Errors: e.Errors}, nil
}

// why says for what a message is not delivered, "" where it is.
func (h *Hook) why(m posted.Message) string {
	key := chat.KeyOf(h.channel.Channel, m.Sender, m.Chat)
	switch {
	case !chat.Allowed(h.channel.Channel, m.Sender, m.Chat, m.Group):
		return chat.WhyNotAllowed
	case h.channel.To.Selector.From != "" && mvm.ValidateKey(key) != nil:
		return "its chat or sender can't be the key of an instance"
	case !h.newcomers.Allow(key):
		return chat.WhyTooManyNew
	}
	return ""
}

// header is the head of a message to an instance: it is signed as the platform would, with
// the instance's own secret.
func (h *Hook) header(instance string, m chat.Message) http.Header {
	head := posted.Sign(h.channel, h.channel.WebhookSecret(instance), m.Ref, m.Body, time.Now())
	head.Set("X-Mvm-Channel", h.channel.Name)
	head.Set("X-Mvm-Message-Id", m.Ref)
	return head
}

// tellDamage says in the channel's status what is wrong with the inbox.
func (h *Hook) tellDamage(text string) {
	if h.lacks() == nil && (h.extra.Run == nil || h.Status().State == chat.StateReady) {
		h.standing.Tell(chat.StateReady, text)
	}
}

// Close implements chat.Adapter.
func (h *Hook) Close() {
	h.shelf.leave(h.Tray)
	h.cancel()
	h.queue.Close()
	h.group.Wait()
}

// Status implements chat.Adapter.
func (h *Hook) Status() guestproto.ChannelStatus { return h.standing.Status(h.queue.Counts()) }

// Proxy implements chat.Adapter: workers reach these platforms by themselves.
func (h *Hook) Proxy(http.ResponseWriter, *http.Request) bool { return false }

// Shelf is where the channels of a gateway keep their messages: one inbox, opened on the
// first use. Its methods may be called concurrently.
type Shelf struct {
	Path string
	// Ready says whether what is written at Path outlives the machine.
	Ready  func() error
	Log    *slog.Logger
	Limits inbox.Limits
	// BodyTime bounds the reading of a request's body; 0: 10 s.
	BodyTime time.Duration

	mu     sync.Mutex
	box    *inbox.Inbox
	closed bool
	bodies chan struct{}
	trays  map[string]*Tray // of the channels that are open
}

// enter makes the tray the one of its channel, and leave ends that.
func (s *Shelf) enter(t *Tray) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trays == nil {
		s.trays = map[string]*Tray{}
	}
	s.trays[t.channel.Name] = t
}

func (s *Shelf) leave(t *Tray) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trays[t.channel.Name] == t {
		delete(s.trays, t.channel.Name)
	}
}

func (s *Shelf) bodyTime() time.Duration {
	if s.BodyTime == 0 {
		return bodyTime
	}
	return s.BodyTime
}

// large has a slot for each large body that may be read now.
func (s *Shelf) large() chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bodies == nil {
		s.bodies = make(chan struct{}, maxLarge)
	}
	return s.bodies
}

func (s *Shelf) open() (*inbox.Inbox, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.box != nil {
		return s.box, nil
	}
	if s.closed {
		return nil, mvm.Errorf(mvm.KindUnavailable, "open the inbox: the gateway is closing")
	}
	if err := s.Ready(); err != nil {
		return nil, err
	}
	box, err := inbox.Open(s.Path, inbox.Options{Log: s.Log, Limits: s.Limits, Damaged: s.damaged})
	if err != nil {
		return nil, err
	}
	s.box = box
	return box, nil
}

func (s *Shelf) damage() string {
	s.mu.Lock()
	box := s.box
	s.mu.Unlock()
	if box == nil {
		return ""
	}
	return box.Damage()
}

// damaged says so in the status of every channel.
func (s *Shelf) damaged(text string) {
	s.mu.Lock()
	trays := slices.Collect(maps.Values(s.trays))
	s.mu.Unlock()
	for _, t := range trays {
		if t.damaged != nil {
			t.damaged(text)
		}
	}
}

// Close closes the inbox, once the channels are closed.
func (s *Shelf) Close() error {
	s.mu.Lock()
	s.closed = true
	box := s.box
	s.mu.Unlock()
	if box == nil {
		return nil
	}
	return box.Close()
}
