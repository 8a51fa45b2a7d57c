package health

import (
	"slices"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/guestproto"
)

// waiting are messages that a gateway keeps, where one of them has waited for long: how many
// there are, and for which workers.
type waiting struct {
	at      place
	n       int
	workers []workerBacklog
}

// workerBacklog are the messages that wait in a channel for the worker of the key; without a
// key, for any of the pool that has none.
type workerBacklog struct {
	channel, pool string
	guestproto.WorkerBacklog
}

// backlog notes what waits at a gateway, and tells the metrics how much waits in its pool when
// that changes. t.mu is held.
func (t *Table) backlog(id string, now waiting) {
	before := t.waiting[id].n
	if t.waiting == nil {
		t.waiting = map[string]waiting{}
	}
	t.waiting[id] = now
	if now.n == 0 {
		delete(t.waiting, id)
	}
	if before == now.n {
		return
	}
	sum := 0
	for _, w := range t.waiting {
		if w.at == now.at {
			sum += w.n
		}
	}
	t.opt.Metrics.Backlog(now.at.tenant, now.at.pool, sum)
}

// Backlog is what the tenant's gateways keep for the instance, in whatever state it is, where
// something has waited for long; nil: nothing.
func (t *Table) Backlog(i mvm.Instance) (out *mvm.Backlog) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, gw := range t.waiting {
		if gw.at.tenant != i.Tenant {
			continue
		}
		for _, w := range gw.workers {
			if w.pool != i.Pool || w.Key != i.Key {
				continue
			}
			if out == nil {
				out = &mvm.Backlog{Oldest: w.Oldest}
			}
			out.Waiting += w.Waiting
			if w.Oldest.Before(out.Oldest) {
				out.Oldest = w.Oldest
			}
			out.Channels = append(out.Channels, w.channel)
		}
	}
	if out != nil {
		slices.Sort(out.Channels)
		out.Channels = slices.Compact(out.Channels)
	}
	return out
}

// backlogsOf makes of a gateway's word on what waits for workers what is kept of it.
func backlogsOf(st guestproto.Status) (out []workerBacklog) {
	now := time.Now()
	for _, c := range st.Channels[:min(len(st.Channels), mvm.MaxChannels)] {
		for _, b := range c.Backlogs[:min(len(c.Backlogs), guestproto.MaxBacklogs)] {
			if b.Waiting <= 0 || now.Sub(b.Oldest) < guestproto.BacklogAfter || b.Key != "" && mvm.ValidateKey(b.Key) != nil {
				continue
			}
			b.Waiting = min(b.Waiting, maxWaiting)
			out = append(out, workerBacklog{display.ClipTo(maxServiceName, c.Name), c.PoolID, b})
		}
	}
	return out
}
