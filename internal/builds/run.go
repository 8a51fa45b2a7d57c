package builds

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"mvm"
	"mvm/internal/build"
	"mvm/internal/display"
	"mvm/internal/image"
)

// maxSaid is how much of what a build said is held for those who wait for it, and maxText bounds
// one of them.
const (
	maxSaid = 128
	maxText = 1 << 10
)

// canceled is the cause with which a person, or the end of its pools, ends a build.
type canceled struct {
	by   mvm.Asker
	text string
}

func (c canceled) Error() string { return c.text }

// run builds, gives the pools their image, and notes the end.
func (b *Builds) run(ctx context.Context, r *run, req image.Request, log *image.Log) {
	ended := false
	defer func() {
		if !ended { // the goroutine was ended from within, as a test's crash does
			b.cutOff(r, log)
		}
	}()
	img, err := b.make(ctx, r, req, log)
	var by canceled
	if errors.As(context.Cause(ctx), &by) && err != nil {
		err = by
	}
	if err == nil {
		err = b.handOut(r, img.Digest)
	}
	ended = true
	if err != nil && b.life.Err() != nil && !errors.As(err, &by) {
		b.cutOff(r, log)
		return
	}
	b.end(r, log, err)
}

// make has the image built when it is the build's turn.
func (b *Builds) make(ctx context.Context, r *run, req image.Request, log *image.Log) (image.Image, error) {
	say := func(p mvm.Progress) {
		p.Text = display.Text(p.Text[:min(len(p.Text), maxText)])
		log.Say(p.Text)
		b.said(r, p)
	}
	release, err := b.turns.Take(ctx, req.Tenant, func() { say(mvm.Progress{Target: req.Ref, Text: "waiting for other builds to end"}) })
	if err != nil {
		return image.Image{}, err
	}
	defer release()
	return b.opt.Images.Run(ctx, image.Job{Request: req, ID: r.ID, Log: b.logPath(r.ID), Entered: func(s image.Stage) { b.entered(r, s) }, Progress: say})
}

// entered notes the build's stage.
func (b *Builds) entered(r *run, s image.Stage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r.State = build.State(s)
	if r.State == build.Building {
		r.Began = time.Now()
	}
	r.tell()
	b.count()
}

// said notes what the build says.
func (b *Builds) said(r *run, p mvm.Progress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r.Step = lastLine(p.Text)
	if len(r.said) >= maxSaid {
		n := len(r.said) - maxSaid + 1
		r.said, r.first = slices.Delete(r.said, 0, n), r.first+n
	}
	r.said = append(r.said, p)
	r.tell()
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return display.Clip(text[strings.LastIndexByte(text, '\n')+1:])
}

// handOut gives the image to every pool that wants it, until nobody joins any more: who comes
// later begins another build.
func (b *Builds) handOut(r *run, digest string) error {
	var errs []error
	for {
		b.mu.Lock()
		r.Image = digest
		if len(r.takers) == 0 {
			r.State, r.Ended = build.Done, time.Now()
			b.mu.Unlock()
			return errors.Join(errs...)
		}
		t := r.takers[0]
		r.takers = r.takers[1:]
		of := r.copy()
		b.mu.Unlock()
		ctx := mvm.WithRequest(mvm.WithAsker(context.WithoutCancel(b.life), t.by), t.request)
		got, err := b.opt.Pools.Built(ctx, t.at, of, digest)
		b.mu.Lock()
		r.got[t.at.Pool] = outcome{got, err}
		b.mu.Unlock()
		if err != nil && !mvm.IsKind(err, mvm.KindNotFound) {
			errs = append(errs, mvm.Errorf(mvm.KindOf(err), "give pool %s its image: %w", t.at, err))
		}
	}
}

// end notes how the build ended, in its files and for who waits.
func (b *Builds) end(r *run, log *image.Log, err error) {
	var by canceled
	b.mu.Lock()
	r.State, r.Ended = build.Done, time.Now()
	switch {
	case errors.As(err, &by):
		r.State, r.Error, r.Kind, r.Fix = build.Canceled, by.text, mvm.KindState, "`mvm pool build "+r.pool().String()+"` builds it again"
		r.err = mvm.Errorf(r.Kind, "%s", r.Error).WithFix("%s", r.Fix)
	case err != nil:
		r.State, r.err = build.Failed, err
		r.Error, r.Fix = explain(err)
		r.Kind = mvm.KindOf(err)
	}
	same := b.supersede(r)
	of := r.copy()
	b.mu.Unlock()
	text := "done: " + of.Image
	if err != nil {
		text = display.Text(string(of.State) + ": " + of.Error)
	}
	log.End(text)
	b.record(of, by.by, same)
	b.over(r)
	b.trim(of.Tenant)
}

// cutOff ends the build with the agent. On record it stays as it is: the next Open says what
// became of it.
func (b *Builds) cutOff(r *run, log *image.Log) {
	log.End("interrupted: the agent is shutting down")
	b.mu.Lock()
	r.State, r.err, r.Ended = build.Failed, errClosing(), time.Now()
	b.mu.Unlock()
	b.over(r)
}

// over tells who waits for the build that it has ended.
func (b *Builds) over(r *run) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r.cancel(nil)
	r.takers = nil
	close(r.done)
	r.tell()
	b.count()
}

// explain splits an error into what happened and what to do, each fit for a record.
func explain(err error) (text, fix string) {
	var e *mvm.Error
	if errors.As(err, &e) {
		fix = e.Fix
	}
	text = err.Error()
	if fix != "" {
		text = strings.Replace(text, " ("+fix+")", "", 1)
	}
	return display.Clip(display.WithoutLog(text)), display.Clip(fix)
}

// pool is the address of the first pool, for people.
func (r *run) pool() mvm.Address {
	at := mvm.Address{Tenant: r.Tenant}
	if len(r.Pools) > 0 {
		at.Pool = r.Pools[0]
	}
	return at
}

// supersede removes the tries of reconcile before this one that failed: a pool that can't be built
// must not push out what else is kept. It reports whether one failed in the same way, so that the
// audit log need not say it again. b.mu is held.
func (b *Builds) supersede(r *run) (same bool) {
	if r.State != build.Failed || r.By.Kind != mvm.AskerReconcile {
		return false
	}
	for _, o := range b.all {
		if o == r || o.State != build.Failed || o.By.Kind != mvm.AskerReconcile || !o.of(r.request()) {
			continue
		}
		same = same || withoutNumbers(o.Error) == withoutNumbers(r.Error)
		delete(b.all, o.ID)
		if err := b.remove(o.ID); err != nil {
			b.opt.Log.Warn("remove build", "build", o.ID, "error", err)
		}
	}
	return same
}

// withoutNumbers is a text without digits, which differ in errors that are alike: names of
// temporary files, sizes, times.
func withoutNumbers(text string) string {
	return strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' {
			return -1
		}
		return c
	}, text)
}

// record makes the end durable, and tells the audit log and who counts.
func (b *Builds) record(r build.Run, by mvm.Asker, same bool) {
	if err := b.save(r); err != nil {
		b.opt.Log.Error("record build", "build", r.ID, "error", err)
	}
	switch {
	case r.State == build.Canceled:
		b.opt.Journal.Record(event(mvm.BuildCanceled, r, by, "", r.ID+" of "+r.Ref))
	case r.State == build.Failed && !same:
		b.opt.Journal.Record(event(mvm.BuildFailed, r, r.By, r.Request, r.ID+" of "+r.Ref+": "+r.Error))
	}
	b.opt.Metrics.BuildEnded(string(r.State))
}
