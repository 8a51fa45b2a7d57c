package chat

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"mvm"
	"mvm/internal/guestproto"
)

// Options are what a Set works with. All but Listen, HTTP, Limits and Changed are required.
type Options struct {
	Log     *slog.Logger
	Workers Workers
	Host    Host
	// Open opens the adapter of a channel; by kind.
	Open   map[mvm.ChannelKind]func(AdapterOptions) Adapter
	Listen func(ctx context.Context, network, addr string) (net.Listener, error)
	HTTP   *http.Client
	Limits Limits
	// Changed is called when Status says something else. It does not block.
	Changed func()
}

// Set are the channels of a gateway. Its methods may be called concurrently.
type Set struct {
	opt      Options
	reporter *reporter
	flood    *Flood

	mu       sync.Mutex
	closed   bool
	channels map[string]*channel
	doors    map[netip.AddrPort]*door
}

// channel is a channel in force.
type channel struct {
	is      guestproto.Channel
	adapter Adapter
}

// NewSet makes a Set without channels, which does nothing.
func NewSet(opt Options) *Set {
	if opt.Listen == nil {
		opt.Listen = (&net.ListenConfig{}).Listen
	}
	if opt.HTTP == nil {
		opt.HTTP = platformClient()
	}
	if opt.Changed == nil {
		opt.Changed = func() {}
	}
	return &Set{opt: opt, reporter: newReporter(opt), flood: NewFlood(opt.Limits.Tenant), channels: map[string]*channel{}, doors: map[netip.AddrPort]*door{}}
}

// platformClient is for platforms: it follows no redirect, and a connection that hangs costs
// no other request.
func platformClient() *http.Client {
	t := &http.Transport{DialContext: (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 50 * time.Second, MaxIdleConnsPerHost: 8, MaxConnsPerHost: 128}
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// Configure puts the channels in force. One that has not changed goes on undisturbed.
func (s *Set) Configure(c guestproto.Configure) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return mvm.Errorf(mvm.KindState, "configure channels: they are closed")
	}
	wanted := map[string]guestproto.Channel{}
	for _, ch := range c.Channels {
		if err := ch.Validate(); err != nil {
			return mvm.Errorf(mvm.KindInvalid, "configure channels: %w", err)
		}
		if s.opt.Open[ch.Kind] == nil {
			return mvm.Errorf(mvm.KindInvalid, "configure channel %s: this gateway has no kind %s", ch.Name, ch.Kind)
		}
		wanted[ch.Name] = ch
	}
	if err := s.openDoors(c); err != nil {
		return err
	}
	var gone []Adapter
	for name, now := range s.channels {
		if next, ok := wanted[name]; !ok || !reflect.DeepEqual(now.is, next) {
			gone = append(gone, now.adapter)
			delete(s.channels, name)
		}
	}
	for _, a := range gone {
		a.Close()
	}
	for name, next := range wanted {
		if s.channels[name] == nil {
			s.channels[name] = &channel{next, s.opt.Open[next.Kind](AdapterOptions{Channel: next, Workers: s.opt.Workers, Recorder: s.reporter,
				Log: s.opt.Log, HTTP: s.opt.HTTP, Limits: s.opt.Limits, Flood: s.flood, Changed: s.opt.Changed})}
		}
	}
	s.opt.Changed()
	return nil
}

// Status says how the channels are, by name.
func (s *Set) Status() (out []guestproto.ChannelStatus) {
	for _, c := range s.all() {
		out = append(out, c.adapter.Status())
	}
	return out
}

// checkTime bounds a look at all channels.
const checkTime = 10 * time.Second

// Check looks at how the channels are just now, all at the same time.
func (s *Set) Check(ctx context.Context) guestproto.ChannelChecks {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	all := s.all()
	out := guestproto.ChannelChecks{Channels: make([]guestproto.ChannelCheck, len(all))}
	var looking sync.WaitGroup
	for n, c := range all {
		looking.Go(func() {
			if a, ok := c.adapter.(Inspector); ok {
				out.Channels[n] = a.Inspect(ctx)
				return
			}
			out.Channels[n].ChannelStatus = c.adapter.Status()
		})
	}
	looking.Wait()
	return out
}

// all are the channels, by name.
func (s *Set) all() (out []*channel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.channels {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *channel) int { return strings.Compare(a.is.Name, b.is.Name) })
	return out
}

// Waiting counts messages that are not delivered yet.
func (s *Set) Waiting() (n int) {
	for _, c := range s.Status() {
		n += c.Waiting
	}
	return n
}

// Close ends all channels and waits for what they started.
func (s *Set) Close() error {
	s.mu.Lock()
	s.closed = true
	channels, doors := s.channels, s.doors
	s.channels, s.doors = map[string]*channel{}, map[netip.AddrPort]*door{}
	s.mu.Unlock()
	for _, c := range channels {
		c.adapter.Close()
	}
	var errs []error
	for _, d := range doors {
		errs = append(errs, d.close())
	}
	s.reporter.close()
	s.opt.HTTP.CloseIdleConnections()
	return errors.Join(errs...)
}
