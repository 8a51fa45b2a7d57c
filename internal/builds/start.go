package builds

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"mvm"
	"mvm/internal/build"
	"mvm/internal/display"
	"mvm/internal/image"
)

// errClosing ends what the agent's end cuts off.
func errClosing() error { return mvm.Away("the agent is shutting down") }

// Start begins to build the image of the request for the pool, or joins the build of the same
// request that is under way. It waits for nothing.
//
// KindQuota: the tenant has too many builds. KindState: a person cancelled the build a moment ago,
// and the asker is no person.
func (b *Builds) Start(ctx context.Context, at mvm.Address, req image.Request) (build.Run, error) {
	if b.life.Err() != nil {
		return build.Run{}, errClosing()
	}
	t := taker{at, mvm.AskerFrom(ctx), mvm.RequestFrom(ctx)}
	b.mu.Lock()
	if r := b.current(req); r != nil {
		r.join(t)
		defer b.mu.Unlock()
		return r.copy(), nil
	}
	ctx, cancel := context.WithCancelCause(b.life)
	r, err := b.add(t, req, cancel)
	if err != nil {
		b.mu.Unlock()
		cancel(nil)
		return build.Run{}, err
	}
	begun := r.copy()
	b.mu.Unlock()
	log, err := b.prepare(begun, req)
	if err == nil {
		if begun.Tries == 0 {
			b.opt.Journal.Record(event(mvm.BuildStarted, begun, t.by, t.request, begun.ID+" of "+begun.Ref))
		}
		if !b.group.Go(func() { b.run(ctx, r, req, log) }) {
			log.End("the agent is shutting down")
			err = errClosing()
		}
	}
	if err != nil {
		cancel(nil)
		b.giveUp(r, err)
		return build.Run{}, err
	}
	return begun, nil
}

// current is the build of the request that has not ended. b.mu is held.
func (b *Builds) current(req image.Request) *run {
	for _, r := range b.all {
		if r.of(req) && !r.State.Ended() {
			return r
		}
	}
	return nil
}

// of reports whether the build is one of the request.
func (r *run) of(req image.Request) bool {
	return r.Tenant == req.Tenant && r.Ref == req.Ref && r.Role == req.Role && r.Profile == req.Profile
}

// request is what the build is of.
func (r *run) request() image.Request {
	return image.Request{Tenant: r.Tenant, Ref: r.Ref, Role: r.Role, Profile: r.Profile}
}

// join has the build's image given to a pool, too. b.mu is held.
func (r *run) join(t taker) {
	delete(r.got, t.at.Pool)
	r.takers = append(slices.DeleteFunc(r.takers, func(o taker) bool { return o.at == t.at }), t)
	if !slices.Contains(r.Pools, t.at.Pool) {
		r.Pools = append(r.Pools, t.at.Pool)
	}
}

// add makes a build, unless it must not begin. b.mu is held.
func (b *Builds) add(t taker, req image.Request, cancel context.CancelCauseFunc) (*run, error) {
	tries, err := b.tried(t, req)
	if err != nil {
		return nil, err
	}
	pending := 0
	for _, r := range b.all {
		if r.Tenant == req.Tenant && !r.State.Ended() {
			pending++
		}
	}
	if pending >= b.limits.Pending {
		return nil, mvm.Errorf(mvm.KindQuota, "build image %s: tenant %s has %d builds that have not ended, which is the limit", req.Ref, req.Tenant, pending).
			WithFix("wait for one to end, or cancel one: see `mvm builds %s`", req.Tenant)
	}
	id, err := b.newID()
	if err != nil {
		return nil, err
	}
	r := &run{Run: build.Run{ID: id, Tenant: req.Tenant, Ref: req.Ref, Role: req.Role, Profile: req.Profile, State: build.Queued,
		By: t.by, Request: t.request, Created: time.Now(), Tries: tries}, cancel: cancel, got: map[string]outcome{}, news: make(chan struct{}), done: make(chan struct{})}
	r.join(t)
	b.all[id] = r
	b.count()
	return r, nil
}

// tried is how often reconcile has tried this in a row without success. What a person has cancelled
// it may not begin anew. b.mu is held.
func (b *Builds) tried(t taker, req image.Request) (int, error) {
	if t.by.Kind != mvm.AskerReconcile {
		return 0, nil
	}
	var last *run
	for _, r := range b.all {
		if r.of(req) && (last == nil || r.Created.After(last.Created)) {
			last = r
		}
	}
	switch {
	case last == nil:
		return 0, nil
	case last.State == build.Failed && last.By.Kind == mvm.AskerReconcile:
		return last.Tries + 1, nil
	case last.State != build.Canceled || time.Since(last.Ended) > b.limits.HeldFor:
		return 0, nil
	}
	return 0, mvm.Errorf(mvm.KindState, "build image %s: build %s was cancelled; it is not tried again before %s", req.Ref, last.ID,
		last.Ended.Add(b.limits.HeldFor).UTC().Format(time.RFC3339)).
		WithFix("run `mvm pool build %s` to build it now, or change the pool's image", t.at)
}

// prepare makes the build's files.
func (b *Builds) prepare(r build.Run, req image.Request) (*image.Log, error) {
	if err := b.save(r); err != nil {
		return nil, mvm.Errorf(mvm.KindOf(err), "record build of %s: %w", req.Ref, err)
	}
	log, err := image.OpenLog(b.logPath(r.ID), b.limits.LogBytes)
	if err != nil {
		return nil, err
	}
	log.Say(display.Text(req.Describe()))
	return log, nil
}

// giveUp forgets a build that could not begin. Who joined it meanwhile is told why.
func (b *Builds) giveUp(r *run, err error) {
	b.mu.Lock()
	delete(b.all, r.ID)
	r.State, r.err, r.Ended = build.Failed, err, time.Now()
	close(r.done)
	r.tell()
	b.count()
	b.mu.Unlock()
	if err := b.remove(r.ID); err != nil {
		b.opt.Log.Warn("remove build", "build", r.ID, "error", err)
	}
}

// event is one of the audit log about a build. It has a pool where there is only one.
func event(act mvm.Action, r build.Run, by mvm.Asker, request, detail string) mvm.Event {
	e := mvm.Event{Action: act, Tenant: r.Tenant, By: by, Request: request, Detail: display.Clip(detail)}
	if len(r.Pools) == 1 {
		e.Pool = r.Pools[0]
	}
	return e
}

// Wait waits until the build has ended and the pool has its image, which it returns. When ctx
// ends first the build goes on. progress gets what the build says; it may be nil.
func (b *Builds) Wait(ctx context.Context, id string, at mvm.Address, progress func(mvm.Progress)) (mvm.Build, error) {
	b.mu.Lock()
	r, err := b.find(id)
	if err != nil {
		b.mu.Unlock()
		return mvm.Build{}, err
	}
	if progress == nil {
		progress = func(mvm.Progress) {}
	}
	first, next := r.copy(), r.first
	b.mu.Unlock()
	progress(mvm.Progress{Target: at.String(), Text: waitText(first)})
	for {
		b.mu.Lock()
		said, news := r.since(next), r.news
		next = r.first + len(r.said)
		b.mu.Unlock()
		for _, p := range said {
			progress(p)
		}
		select {
		case <-r.done:
			return b.outcome(r, at, next, progress)
		default:
		}
		select {
		case <-news:
		case <-r.done:
		case <-ctx.Done():
			return mvm.Build{}, mvm.Errorf(mvm.KindCanceled, "wait for build %s of pool %s: %w", id, at, context.Cause(ctx)).
				WithFix("the build goes on: follow it with `mvm builds logs -f %s`", id)
		}
	}
}

// waitText says for which build somebody waits.
func waitText(r build.Run) string {
	text := fmt.Sprintf("waiting for build %s of %s", r.ID, r.Ref)
	if r.State == build.Building {
		text += fmt.Sprintf(", which began %s ago: later changes of what it names are not in it", time.Since(r.Created).Round(time.Second))
	}
	return text
}

// since is what the build said from the number on. b.mu is held.
func (r *run) since(next int) []mvm.Progress {
	return slices.Clone(r.said[min(max(0, next-r.first), len(r.said)):])
}

// outcome is what the pool got of a build that ended, after the rest of what it said.
func (b *Builds) outcome(r *run, at mvm.Address, next int, progress func(mvm.Progress)) (mvm.Build, error) {
	b.mu.Lock()
	said, err := r.since(next), r.err
	got, ok := r.got[at.Pool]
	b.mu.Unlock()
	for _, p := range said {
		progress(p)
	}
	switch {
	case ok:
		return got.build, got.err
	case errors.Is(err, mvm.ErrAway):
		return mvm.Build{}, err
	case err != nil:
		return mvm.Build{}, mvm.Errorf(mvm.KindOf(err), "build %s: %w", r.ID, err)
	}
	return mvm.Build{}, mvm.Errorf(mvm.KindState, "build %s is not one for pool %s", r.ID, at)
}
