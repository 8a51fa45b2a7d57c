package agent

import (
	"context"
	"sync"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/driver"
	"mvm/internal/guestproto"
	"mvm/internal/store"
)

// Bounds of what is kept of a guest's services.
const (
	maxHealthServices = 64
	maxServiceName    = 63
)

// healthTable has how the services of instances are, as their guests said last. It is in
// memory only: a guest tells when something changes, and is asked once where nothing is
// known of it. What is known of a sleeper stays, for its guest goes on where it was.
type healthTable struct {
	mu sync.Mutex
	by map[string]guestHealth
}

type guestHealth struct {
	boot    int
	version uint64 // of the Status that it is from
	asked   int    // how often it was asked in vain
	is      mvm.Health
}

// saw takes in what a guest said. A guest of an older mvm does not tell of changes: of it
// only what is not ready is kept, while somebody waits for it to become so the first time.
func (t *healthTable) saw(i mvm.Instance, st guestproto.Status) {
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
}

// of is what is known of a running instance; nil: nothing.
func (t *healthTable) of(i mvm.Instance) *mvm.Health {
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

// forget drops what is known of an instance that is gone.
func (t *healthTable) forget(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.by, id)
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
	return h
}

// stalled says why the instance's VM stands still though nobody paused it; "" where it
// does not.
func (a *Agent) stalled(id string) string {
	if l := a.liveOf(id); l != nil {
		if s, ok := l.vmm.(driver.Staller); ok {
			return s.Stalled()
		}
	}
	return ""
}

// observed adds to a record what is known of the instance beside it.
func (a *Agent) observed(i *mvm.Instance) {
	i.Idle = a.idle.Status(*i)
	i.Health = a.health.of(*i)
	if i.State == mvm.StateRunning {
		i.Stalled = a.stalled(i.ID)
	}
}

// gaveUp is the service for which it is no use to wait; nil where there is none.
func (a *Agent) gaveUp(i mvm.Instance) *mvm.ServiceHealth {
	if s := a.health.of(i).Worst(); s != nil && s.GivesUp() {
		return s
	}
	return nil
}

// serviceError says of a service of the instance that it does not come up, with the last
// lines of its log.
func (a *Agent) serviceError(ctx context.Context, what string, i mvm.Instance, s mvm.ServiceHealth) *mvm.Error {
	return serviceError(what, i, s, a.session.LastLines(ctx, i.ID, s.Name))
}

func serviceError(what string, i mvm.Instance, s mvm.ServiceHealth, lines []string) *mvm.Error {
	fix := "see `mvm logs %s --service %s`, and mend the image or the pool's environment; until then its guest starts it again and again"
	if s.State == "failed" {
		fix = "see `mvm logs %s --service %s`, and mend the image or the pool's environment; its guest does not start it again"
	}
	return mvm.Errorf(mvm.KindUnavailable, "%s: service %s is %s%s", what, s.Name, s.Text(), display.QuoteLog(lines)).WithFix(fix, i.ID, s.Name)
}

// askHealth asks a guest of which nothing is known how its services are: after a restart
// of the agent.
func (a *Agent) askHealth(ctx context.Context, i mvm.Instance) {
	if i.State != mvm.StateRunning || !i.Ready || !a.health.unknown(i) {
		return
	}
	_, err := a.statusWhileIdle(ctx, i)
	if ctx.Err() == nil {
		a.health.asked(i, err == nil)
	}
}

// readyAfterAll has it on record that the services of an instance are ready for which
// nobody waits any more: a wait for them has failed.
func (a *Agent) readyAfterAll(i mvm.Instance) {
	if i.State != mvm.StateRunning || i.Ready || i.Problem == "" {
		return
	}
	recorded := false
	err := a.store.Update(func(tx *store.Tx) error {
		now, err := tx.Instance(i.ID)
		if recorded = err == nil && now.Op == nil && now.Changed.Equal(i.Changed); !recorded {
			return err
		}
		now.Ready, now.Problem = true, ""
		return tx.PutInstance(now)
	})
	if err != nil && !mvm.IsKind(err, mvm.KindNotFound) {
		a.log.Error("record that services are ready", "instance", i.ID, "error", err)
		return
	}
	if !recorded { // an operation is under way, and looks itself
		return
	}
	a.log.Info("services are ready after all", "instance", i.ID)
	a.reconciler.Poke(i.Tenant) // others of its pool waited for it
}

// unknown reports that nothing is known of a running instance's services, and its guest
// was not asked since its boot.
func (t *healthTable) unknown(i mvm.Instance) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	h, ok := t.by[i.ID]
	return !ok || h.boot != i.DiskGeneration || h.is.Status == "" && h.asked < maxAsked
}

// maxAsked is how often a guest is asked that does not answer.
const maxAsked = 3

// asked notes that a guest was asked of which nothing is known: one of an older mvm tells
// nothing, and a mute one is not asked for ever.
func (t *healthTable) asked(i mvm.Instance, answered bool) {
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

// serviceFails is an error of an instance that runs and serves nobody: a service of it does
// not come up.
type serviceFails struct{ error }

func (e *serviceFails) Unwrap() error { return e.error }

// servesNobody is the error of an instance that runs, and a service of which does not come
// up; nil where that is not so.
func (o *operation) servesNobody(ctx context.Context) error {
	s := o.a.gaveUp(o.inst)
	if s == nil {
		return nil
	}
	return &serviceFails{o.a.serviceError(ctx, string(o.kind)+" "+o.inst.ID+": it runs", o.inst, *s)}
}

// lastOf adds to an instance's story the last lines of what has to do with how it is.
func (a *Agent) lastOf(ctx context.Context, s *mvm.Story) {
	i := s.Instance
	if w := i.Health.Worst(); w != nil && w.Failing {
		s.LastOf, s.LastLines = w.Name, a.session.LastLines(ctx, i.ID, w.Name)
	} else if l := i.Last; i.State == mvm.StateStopped && l != nil && l.Op == mvm.OpStop && l.By.Kind == mvm.AskerAgent {
		s.LastOf, s.LastLines = "console", a.session.LastConsole(i.ID)
	}
	if len(s.LastLines) > 0 && mvm.Recorded(ctx) {
		a.session.RecordUse(ctx, mvm.LogsRead, i, s.LastOf)
	}
}

// poolHealth sums up how the running instances of a pool are, nil where none runs.
func (a *Agent) poolHealth(all []mvm.Instance) *mvm.PoolHealth {
	var p *mvm.PoolHealth
	for _, i := range all {
		if i.State != mvm.StateRunning {
			continue
		}
		if p == nil {
			p = &mvm.PoolHealth{}
		}
		a.observed(&i)
		p.Add(i)
	}
	return p
}
