package chat

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"mvm/internal/guestproto"
)

// Host asks the host over port 53.
type Host interface {
	Call(ctx context.Context, req guestproto.HostRequest) (guestproto.HostResponse, error)
}

// Times of telling the host what became of messages.
const (
	reportEvery   = time.Second
	reportTimeout = 10 * time.Second
	maxReports    = 256 // that wait; more are counted
)

// reporter tells the host what became of messages. Its goroutine runs while there is
// something to tell.
type reporter struct {
	host   Host
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc
	group  sync.WaitGroup

	mu      sync.Mutex
	waiting map[string][]guestproto.MessageEvent
	running bool
}

func newReporter(opt Options) *reporter {
	r := &reporter{host: opt.Host, log: opt.Log, waiting: map[string][]guestproto.MessageEvent{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Record implements Recorder.
func (r *reporter) Record(channel string, e guestproto.MessageEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return
	}
	list := r.waiting[channel]
	if n := len(list); n >= maxReports {
		list[n-1].Count = max(list[n-1].Count, 1) + 1
		return
	}
	r.waiting[channel] = append(list, e)
	if !r.running {
		r.running = true
		r.group.Go(r.run)
	}
}

func (r *reporter) run() {
	for Wait(r.ctx, reportEvery) && r.report() {
	}
}

// report tells what waits, and reports whether there is more. What the host does not take is
// lost: it is only for people.
func (r *reporter) report() (more bool) {
	r.mu.Lock()
	all := r.waiting
	r.waiting = map[string][]guestproto.MessageEvent{}
	r.running = len(all) > 0
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(r.ctx, reportTimeout)
	defer cancel()
	for channel, list := range all {
		for len(list) > 0 {
			n := min(len(list), guestproto.MaxMessages)
			if _, err := r.host.Call(ctx, guestproto.HostRequest{ReportMessages: &guestproto.ReportMessages{Channel: channel, Messages: list[:n]}}); err != nil {
				r.log.Debug("messages not reported", "channel", channel, "messages", n, "error", err)
			}
			list = list[n:]
		}
	}
	return len(all) > 0
}

func (r *reporter) close() {
	r.cancel()
	r.group.Wait()
}
