package guest

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
)

// Times of telling the host how the services are.
const (
	healthGap     = 500 * time.Millisecond // between two reports, at least
	healthTimeout = 10 * time.Second       // for the host to answer
	healthRetry   = time.Second            // after a report that was not answered, doubled up to
	healthRetries = time.Minute
)

// maxHealthDetail bounds what is said of a service.
const maxHealthDetail = 500

// health tells the host how the services are when that has changed. While nothing
// changes it does nothing: its goroutine ends when the host knows.
type health struct {
	a    *Agent
	host Host

	looking sync.Mutex // one look at a time, so that versions are in the order of looks
	version uint64

	mu      sync.Mutex // guards what follows
	dirty   bool       // something may have changed since the last look of a report
	telling bool
}

// look returns how the services are, and the number of the look.
func (h *health) look() ([]guestproto.ServiceStatus, uint64) {
	h.looking.Lock()
	defer h.looking.Unlock()
	h.version++
	services := h.a.sup.Status()
	for n := range services {
		if d := services[n].Detail; len(d) > maxHealthDetail {
			services[n].Detail = d[:maxHealthDetail] + "…"
		}
	}
	return services, h.version
}

// changed notes that the host may have to be told. It reports whether tell has to be run
// for that.
func (h *health) changed() (begin bool) {
	if h.host == nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dirty = true
	begin, h.telling = !h.telling, true
	return begin
}

// due takes note of the change. It reports false, and telling has ended, where there is none.
func (h *health) due() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.telling = h.dirty
	h.dirty = false
	return h.telling
}

// tell reports until nothing has changed since the last report.
func (h *health) tell() {
	ctx, told := h.a.stopping, ""
	for h.due() {
		for retry := healthRetry; ; retry = min(2*retry, healthRetries) {
			s := h.a.status()
			if key := healthKey(s); key == told || h.report(ctx, s) {
				told = key
				break
			}
			if !workload.SleepFor(ctx, retry) {
				return
			}
		}
		if !workload.SleepFor(ctx, healthGap) {
			return
		}
	}
}

// healthKey is what the host is told of, without what changes all the time.
func healthKey(s guestproto.Status) string {
	s.Version, s.UptimeSecs, s.ActiveRequests = 0, 0, 0
	s.Services = slices.Clone(s.Services)
	for n := range s.Services {
		s.Services[n].PID = 0
	}
	s.Channels = slices.Clone(s.Channels)
	for n, c := range s.Channels {
		s.Channels[n] = guestproto.ChannelStatus{Name: c.Name, Kind: c.Kind, State: c.State, Detail: c.Detail, Bot: c.Bot, Waiting: c.Backlog(time.Now()), Backlogs: c.Backlogs}
	}
	b, err := json.Marshal(s)
	if err != nil { // it can't be sent either
		return ""
	}
	return string(b)
}

// report sends one report, and tells whether that is done: a host that does not know the
// request asks by itself.
func (h *health) report(ctx context.Context, s guestproto.Status) bool {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	_, err := h.host.Call(ctx, guestproto.HostRequest{ReportHealth: &s})
	var refused *guestproto.RemoteError
	return err == nil || errors.As(err, &refused) && strings.Contains(refused.Message, guestproto.NoVariant)
}
