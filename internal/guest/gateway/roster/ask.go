package roster

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"mvm"
	"mvm/internal/guest/gateway/wire"
	"mvm/internal/guestproto"
)

// maxAwake bounds the instances that are taken from one answer.
const maxAwake = 256

type (
	strangerKey struct{}
	channelKey  struct{}
)

// WithStranger has what is asked be for a client at the address, whose key nobody vouches for.
func WithStranger(ctx context.Context, source netip.Addr) context.Context {
	return context.WithValue(ctx, strangerKey{}, source)
}

// WithChannel has what is asked be in the name of the channel.
func WithChannel(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, channelKey{}, name)
}

// ask begins the question to the host for the target. ro.mu is held.
//
// The question has the id of the request that caused it. Where that has none, it gets
// one here, so that it can be found in the host's log all the same.
func (ro *Roster) ask(ctx context.Context, t Target, e *entry) *call {
	c := &call{done: make(chan struct{})}
	e.call = c
	ro.inFlight[c] = struct{}{}
	question := ro.acquireOf(t)
	question.Source, _ = ctx.Value(strangerKey{}).(netip.Addr)
	question.Channel, _ = ctx.Value(channelKey{}).(string)
	if question.RequestID = mvm.RequestFrom(ctx); question.RequestID == "" {
		question.RequestID = newRequestID()
	}
	if !ro.group.Go(func() { ro.run(t, c, question) }) {
		ro.finish(t, c, wire.Refused(503, wire.DefaultRetry, "the gateway is closing"))
	}
	return c
}

// run asks, and puts what the answer names on the roster.
func (ro *Roster) run(t Target, c *call, question guestproto.Acquire) {
	ctx, cancel := context.WithTimeout(ro.ctx, ro.lim.Hold)
	defer cancel()
	var res guestproto.AcquireResult
	var err error
	began, log := time.Now(), ro.log.With("pool", t.Pool, "request", question.RequestID)
	select {
	case ro.calls <- struct{}{}:
		res, err = ro.host.Acquire(ctx, question)
		<-ro.calls
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		log.Warn("host did not answer", "error", err)
		err = noAnswer(err)
	} else if !res.Success {
		err = hostRefusal(res)
		log.Info("host refused an instance", "reason", detailOf(res))
	} else {
		log.Info("host has an instance awake", "took", time.Since(began))
	}
	var gone []dead
	ro.mu.Lock()
	if err == nil {
		err = ro.welcome(t, c, res.Instances, &gone)
	}
	ro.finish(t, c, err)
	ro.mu.Unlock()
	for _, d := range gone {
		d.end()
	}
}

// noAnswer is what a client is told when the host gave an error or nothing.
func noAnswer(err error) error {
	var remote *guestproto.RemoteError
	if errors.As(err, &remote) { // the log has what it said
		return wire.Refused(503, wire.DefaultRetry, notNow)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return wire.Refused(503, wire.DefaultRetry, notInTime)
	}
	return wire.Refused(503, wire.DefaultRetry, "the host does not answer")
}

// finish ends the question. ro.mu is held.
func (ro *Roster) finish(t Target, c *call, err error) {
	c.err = err
	delete(ro.inFlight, c)
	if e := ro.entries[t]; e != nil && e.call == c {
		e.call = nil
		e.asked = ro.mono()
		ro.tidy(t, e)
	}
	close(c.done)
}

// welcome puts the instances of an answer on the roster. One that was fenced while
// the question was under way is left out, for the answer may be older than the
// fence: who waits asks again. So is an answer that names an earlier boot than another
// answer did. ro.mu is held.
func (ro *Roster) welcome(t Target, c *call, awake []guestproto.Awake, gone *[]dead) error {
	e := ro.entries[t]
	if e == nil {
		return nil // nobody waits, and its pool is gone from the table
	}
	var backends []*backend
	named := false
	for _, a := range awake[:min(len(awake), maxAwake)] {
		if mvm.ValidateInstanceID(a.InstanceID) != nil || !a.IP.IsValid() || t.IP.IsValid() && a.IP != t.IP {
			continue
		}
		named = true
		if w := ro.workers[a.InstanceID]; !c.all && !c.fenced[a.InstanceID] && (w == nil || a.Boot == 0 || a.Boot >= w.boot) {
			backends = append(backends, ro.awaken(t.Pool, a, gone))
		}
	}
	if !named {
		return wire.Refused(503, wire.DefaultRetry, "the host named no instance")
	}
	e.backends = backends
	return nil
}
