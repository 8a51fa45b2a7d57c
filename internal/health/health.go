// Package health has how the services of instances are, as their guests said last, and asks
// guests of their integrations, whose state is recorded. What is known of services is in
// memory only: a guest tells when something changes, and is asked once where nothing is
// known of it. What is known of a sleeper stays, for its guest goes on where it was.
package health

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/guestproto"
	"mvm/internal/store"
)

// Bounds of what is kept of a guest's services.
const (
	maxHealthServices = 64
	maxServiceName    = 63
	maxWaiting        = 1_000_000 // messages of a channel
)

// Guests are asked how their services are.
type Guests interface {
	Ask(ctx context.Context, id string, req guestproto.Request) (guestproto.Response, error)
}

// Idle bounds the questions that nobody waits for.
type Idle interface {
	Question(ctx context.Context, ask func(context.Context) error) error
}

// Reconcile has another look at a tenant.
type Reconcile interface {
	Poke(tenant string)
}

// Store has the records.
type Store interface {
	View(fn func(*store.Tx) error) error
	Update(fn func(*store.Tx) error) error
}

// Metrics is told how many messages of chats wait in a pool.
type Metrics interface {
	Backlog(tenant, pool string, messages int)
}

// Options are what a table is made of. All of them are required.
type Options struct {
	Guests    Guests
	Idle      Idle
	Reconcile Reconcile
	Store     Store
	Log       *slog.Logger
	Metrics   Metrics
	// Call bounds one question to a guest about its integrations.
	Call time.Duration
}

// Table is what is known. All methods may be called concurrently.
type Table struct {
	opt Options
	mu  sync.Mutex
	by  map[string]guestHealth
	// waiting has the gateways at which messages wait for long.
	waiting map[string]waiting
}

// New makes a table that knows nothing yet.
func New(opt Options) *Table { return &Table{opt: opt} }

type guestHealth struct {
	boot    int
	version uint64 // of the Status that it is from
	asked   int    // how often it was asked in vain
	is      mvm.Health
}

// saw takes in what a guest said. A guest of an older mvm does not tell of changes: of it
// only what is not ready is kept, while somebody waits for it to become so the first time.
func (t *Table) saw(i mvm.Instance, st guestproto.Status) {
	if i.Role != mvm.RoleGateway { // it has no channels
		st.Channels = nil
	}
	is := healthOf(st)
	t.mu.Lock()
	defer t.mu.Unlock()
	before, known := t.by[i.ID]
	known = known && before.boot == i.DiskGeneration
	switch {
	case known && before.version > st.Version:
		return
	case st.Version == 0 && (is.Status == mvm.HealthReady || i.Ready):
		delete(t.by, i.ID)
		return
	case known && before.is.Status == is.Status:
		is.Since = before.is.Since
	}
	if t.by == nil {
		t.by = map[string]guestHealth{}
	}
	t.by[i.ID] = guestHealth{boot: i.DiskGeneration, version: st.Version, is: is}
	t.backlog(i.ID, waiting{at: place{i.Tenant, i.Pool}, n: is.Waiting(), workers: backlogsOf(st)})
}

// place is a pool.
type place struct{ tenant, pool string }

// Of is what is known of a running instance; nil: nothing.
func (t *Table) Of(i mvm.Instance) *mvm.Health {
	if i.State != mvm.StateRunning {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if h, ok := t.by[i.ID]; ok && h.boot == i.DiskGeneration && h.is.Status != "" {
		return &h.is
	}
	if !i.Ready {
		return &mvm.Health{Status: mvm.HealthStarting, Since: i.Changed}
	}
	return nil
}

// Forget drops what is known of an instance that is gone.
func (t *Table) Forget(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.by, id)
	t.backlog(id, waiting{at: t.waiting[id].at})
}

// healthOf makes of a guest's word what is kept of it.
func healthOf(st guestproto.Status) mvm.Health {
	h := mvm.Health{Status: mvm.HealthStarting, Since: time.Now()}
	if st.Ready {
		h.Status = mvm.HealthReady
	}
	for _, s := range st.Services[:min(len(st.Services), maxHealthServices)] {
		is := mvm.ServiceHealth{Name: display.ClipTo(maxServiceName, s.Name), State: display.ClipTo(maxServiceName, s.State),
			Restarts: max(s.Restarts, 0), Fails: max(s.Fails, 0), Detail: display.Clip(s.Detail), ExitCode: s.ExitCode}
		if st.Version == 0 && s.State == "backoff" { // it does not count them
			is.Fails = is.Restarts + 1
		}
		is.Failing = s.State == "failed" || s.State == "backoff" || is.Fails > 0 && !is.Up()
		if is.Failing {
			h.Status = mvm.HealthFailing
		}
		h.Services = append(h.Services, is)
	}
	h.Channels = channelsOf(st)
	return h
}

// channelsOf makes of a gateway's word on its channels what is kept of it.
func channelsOf(st guestproto.Status) (out []mvm.ChannelHealth) {
	for _, c := range st.Channels[:min(len(st.Channels), mvm.MaxChannels)] {
		is := mvm.ChannelHealth{Name: display.ClipTo(maxServiceName, c.Name), Kind: mvm.ChannelKind(display.ClipTo(maxServiceName, string(c.Kind))),
			Status: mvm.HealthStarting, Detail: display.Clip(c.Detail), Bot: display.ClipTo(maxServiceName, c.Bot)}
		if s := mvm.HealthStatus(c.State); s == mvm.HealthReady || s == mvm.HealthFailing {
			is.Status = s
		}
		if n := c.Backlog(time.Now()); n > 0 {
			is.Waiting, is.Oldest = min(n, maxWaiting), *c.Oldest
		}
		out = append(out, is)
	}
	return out
}

// unknown reports that nothing is known of a running instance's services, and its guest
// was not asked since its boot.
func (t *Table) unknown(i mvm.Instance) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	h, ok := t.by[i.ID]
	return !ok || h.boot != i.DiskGeneration || h.is.Status == "" && h.asked < maxAsked
}

// maxAsked is how often a guest is asked that does not answer.
const maxAsked = 3

// asked notes that a guest was asked of which nothing is known: one of an older mvm tells
// nothing, and a mute one is not asked for ever.
func (t *Table) asked(i mvm.Instance, answered bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.by[i.ID]
	if h.boot != i.DiskGeneration {
		h = guestHealth{boot: i.DiskGeneration}
	}
	if h.asked++; answered {
		h.asked = maxAsked
	}
	if t.by == nil {
		t.by = map[string]guestHealth{}
	}
	t.by[i.ID] = h
}

// ServiceError says of a service of the instance that it does not come up, with the last
// lines of its log.
func (*Table) ServiceError(what string, i mvm.Instance, s mvm.ServiceHealth, lines []string) *mvm.Error {
	fix := "see `mvm logs %s --service %s`, and mend the image or the pool's environment; until then its guest starts it again and again"
	if s.State == "failed" {
		fix = "see `mvm logs %s --service %s`, and mend the image or the pool's environment; its guest does not start it again"
	}
	return mvm.Errorf(mvm.KindUnavailable, "%s: service %s is %s%s", what, s.Name, s.Text(), display.QuoteLog(lines)).WithFix(fix, i.ID, s.Name)
}

// GaveUp is the service for which it is no use to wait; nil where there is none.
func (t *Table) GaveUp(i mvm.Instance) *mvm.ServiceHealth {
	if s := t.Of(i).Worst(); s != nil && s.GivesUp() {
		return s
	}
	return nil
}
