package agent

import (
	"context"

	"mvm"
	"mvm/internal/idle"
	"mvm/internal/lifecycle"
	"mvm/internal/policy"
)

// resting is what the idle loop asks of the agent.
type resting struct{ guests }

var (
	_ idle.Instances = resting{}
	_ idle.Queue     = resting{}
	_ idle.Job       = (*lifecycle.Job)(nil)
)

// VMMs implements idle.Instances.
func (r resting) VMMs() map[string]idle.VMM {
	all := r.a.live.All()
	out := make(map[string]idle.VMM, len(all))
	for id, v := range all {
		out[id] = v
	}
	return out
}

// Use implements idle.Instances.
func (r resting) Use(id string, s *policy.Sample) {
	use := r.a.ingress.Use(id)
	s.Connections, s.Active, s.Gateway, s.LastActive = use.Open, use.Active, use.Gateway, use.Last
	s.Execs, s.Published = use.Execs, use.Published
}

// Look implements idle.Instances: services may be ready that nobody waits for any more.
func (r resting) Look(ctx context.Context, i mvm.Instance) {
	r.a.health.Look(ctx, i)
}

// Busy implements idle.Queue.
func (r resting) Busy(id string) bool {
	n, _ := r.a.lifecycle.Queued(id)
	return n > 0
}

// Order implements idle.Queue.
func (r resting) Order(id string, o idle.Order) (idle.Job, error) {
	j, err := r.a.lifecycle.Enqueue(id, lifecycle.Request{Op: o.Op, By: mvm.Asker{Kind: mvm.AskerPolicy}, Why: o.Why, Idle: (*lifecycle.Grounds)(&o.Grounds)})
	if err != nil {
		return nil, err
	}
	return j, nil
}

// CalledOff implements idle.Queue.
func (r resting) CalledOff(err error) bool {
	return lifecycle.CalledOff(err)
}
