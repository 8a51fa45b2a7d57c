package chat

import (
	"sync"

	"mvm/internal/guestproto"
)

// Standing is how a channel is, as its adapter tells. Its methods may be called concurrently.
type Standing struct {
	opt AdapterOptions

	mu            sync.Mutex
	state, detail string
	bot           string
}

// NewStanding returns that of a channel that starts.
func NewStanding(opt AdapterOptions) *Standing { return &Standing{opt: opt, state: StateStarting} }

// Tell notes how the channel is. What is not new does nothing.
func (s *Standing) Tell(state, detail string) {
	s.mu.Lock()
	changed := s.state != state || s.detail != detail
	s.state, s.detail = state, detail
	s.mu.Unlock()
	if changed {
		s.opt.Log.Info("channel", "name", s.opt.Channel.Name, "state", state, "detail", detail)
		s.opt.Changed()
	}
}

// Bot returns who the bot is, "" while that is not known.
func (s *Standing) Bot() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bot
}

// SetBot notes who the bot is.
func (s *Standing) SetBot(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bot = name
}

// Status is the channel's status, with what its queue has done.
func (s *Standing) Status(n Counts) guestproto.ChannelStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := guestproto.ChannelStatus{Name: s.opt.Channel.Name, Kind: s.opt.Channel.Kind, State: s.state, Detail: s.detail, Bot: s.bot,
		Waiting: n.Waiting, Accepted: n.Accepted, Refused: n.Refused, SetAside: n.SetAside,
		PoolID: s.opt.Channel.To.PoolID, Backlogs: n.Backlogs}
	if !n.Last.IsZero() {
		out.Last = &n.Last
	}
	if !n.Oldest.IsZero() {
		out.Oldest = &n.Oldest
	}
	return out
}
