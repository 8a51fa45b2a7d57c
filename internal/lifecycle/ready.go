package lifecycle

import (
	"context"
	"errors"
	"strings"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/guestproto"
	"mvm/internal/wait"
)

// readyPoll is the pause between looks at services.
const readyPoll = 250 * time.Millisecond

// waitReady waits until every service of a running instance is ready. The instance
// stays running when they do not become so: its record says what is wrong.
func (o *operation) waitReady(ctx context.Context) error {
	if o.inst.Ready {
		return nil
	}
	o.job.waiting.Store(true)
	if opened := o.job.req.Opened; opened != nil {
		opened()
	}
	defer o.job.waiting.Store(false)
	ctx, cancel := context.WithTimeoutCause(ctx, o.l.opt.Timeouts.Ready,
		mvm.Errorf(mvm.KindTimeout, "services were not ready within %s", o.l.opt.Timeouts.Ready))
	defer cancel()
	began, last, waited := time.Now(), "", false
	for {
		st, err := o.status(ctx)
		if err == nil && st.Ready {
			o.stages = append(o.stages, mvm.Stage{Name: "ready", Took: time.Since(began)})
			return o.recordReady(waited)
		}
		waited = waited || err == nil
		if s := o.l.opt.Health.GaveUp(o.inst); err == nil && s != nil {
			return o.crashLoopError(ctx, *s)
		}
		if d := notReady(st, err); d != last {
			last = d
			o.progress("waiting for services: " + d)
		}
		switch wait.For(ctx, o.vmmGone(), readyPoll) {
		case wait.Gone:
			return o.endedError()
		case wait.Canceled:
			return o.notReadyError(ctx, last)
		}
	}
}

// endedError ends the wait for services whose machine is gone.
func (o *operation) endedError() error {
	how := "its VMM ended"
	if v := o.l.opt.VMMs.Of(o.inst.ID); v != nil {
		how = howEnded(v.Driver().Exit())
	}
	return mvm.Errorf(mvm.KindUnavailable, "wait for services of %s: %s%s", o.inst.ID, how, display.QuoteLog(o.l.opt.Logs.LastConsole(o.inst.ID))).
		WithFix("see `mvm logs --console %s`", o.inst.ID)
}

// crashLoopError ends the wait for a service that does not come up.
func (o *operation) crashLoopError(ctx context.Context, s mvm.ServiceHealth) error {
	err := o.serviceError(ctx, "wait for services of "+o.inst.ID, s)
	return &serviceFails{errors.Join(err, o.save(func(i *mvm.Instance) { i.Problem = display.Clip(display.WithoutLog(err.Text)) }))}
}

func (o *operation) notReadyError(ctx context.Context, last string) error {
	text, service := last, ""
	if s := o.l.opt.Health.Of(o.inst).Worst(); s != nil {
		service = s.Name
	}
	if mvm.IsKind(context.Cause(ctx), mvm.KindTimeout) && service != "" {
		text += display.QuoteLog(o.l.opt.Logs.LastLines(o.job.ctx, o.inst.ID, service))
	}
	err := mvm.Errorf(mvm.KindOf(context.Cause(ctx)), "wait for services of %s: %w: %s", o.inst.ID, context.Cause(ctx), text).
		WithFix("see `mvm logs %s`", o.inst.ID)
	if mvm.IsKind(err, mvm.KindTimeout) {
		return errors.Join(err, o.save(func(i *mvm.Instance) { i.Problem = display.Clip(display.WithoutLog(err.Text)) }))
	}
	return err
}

// vmmGone is closed when the instance has no VMM any more.
func (o *operation) vmmGone() <-chan struct{} {
	if v := o.l.opt.VMMs.Of(o.inst.ID); v != nil {
		return v.Driver().Done()
	}
	gone := make(chan struct{})
	close(gone)
	return gone
}

func (o *operation) status(ctx context.Context) (guestproto.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, o.l.opt.Timeouts.Call)
	defer cancel()
	return o.l.opt.Health.Status(ctx, o.inst)
}

// notReady says which services are not ready, for people.
func notReady(st guestproto.Status, err error) string {
	if err != nil {
		return display.Clip(err.Error())
	}
	var parts []string
	for _, s := range st.Services {
		if s.State == "ready" || s.State == "done" {
			continue
		}
		d := s.Name + " is " + s.State
		if s.Detail != "" {
			d += " (" + s.Detail + ")"
		}
		parts = append(parts, d)
	}
	if len(parts) == 0 {
		parts = append(parts, st.Detail)
	}
	return display.Clip(strings.Join(parts, ", "))
}

// serviceError says of a service of the instance that it does not come up, with the last
// lines of its log.
func (o *operation) serviceError(ctx context.Context, what string, s mvm.ServiceHealth) *mvm.Error {
	return o.l.opt.Health.ServiceError(what, o.inst, s, o.l.opt.Logs.LastLines(ctx, o.inst.ID, s.Name))
}

// serviceFails is an error of an instance that runs and serves nobody: a service of it does
// not come up.
type serviceFails struct{ error }

func (e *serviceFails) Unwrap() error { return e.error }

// servesNobody is the error of an instance that runs, and a service of which does not come
// up; nil where that is not so.
func (o *operation) servesNobody(ctx context.Context) error {
	s := o.l.opt.Health.GaveUp(o.inst)
	if s == nil {
		return nil
	}
	return &serviceFails{o.serviceError(ctx, string(o.kind)+" "+o.inst.ID+": it runs", *s)}
}

// ServesNobody reports that an operation failed so: its instance runs, and a service of it does
// not come up.
func ServesNobody(err error) bool { return errors.As(err, new(*serviceFails)) }
