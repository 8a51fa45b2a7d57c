package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
)

// Times of suspending services.
const (
	suspendPoll    = 250 * time.Millisecond // between looks at one that is not ready yet
	suspendTimeout = 10 * time.Second       // for one answer
	goOnRetry      = 500 * time.Millisecond // between tries to tell one to go on
)

// suspension has the image's services that can do so hold still while the machine
// stands still. Such a service answers POSTs to its Suspend URL:
//
//	{"action":"suspend"} -> {"state":"ready","lease_ms":120000}   it holds still, for that long
//	                        {"state":"waiting","reason":"…"}      it begins nothing new, and finishes what it has
//	{"action":"resume"}  -> {"state":"running"}
//
// Asking again renews the lease. With no lease_ms it holds still until it is told.
type suspension struct {
	agent *Agent

	mu     sync.Mutex
	held   map[string]bool   // asked to hold still and not told to go on yet
	failed map[string]string // why the last try did not work
}

func newSuspension(a *Agent) *suspension {
	return &suspension{agent: a, held: map[string]bool{}, failed: map[string]string{}}
}

// any reports whether the image has services that can hold still.
func (s *suspension) any() bool {
	return slices.ContainsFunc(s.agent.services, func(d workload.Service) bool { return d.Suspend != "" })
}

// suspend has every ready service that can hold still do so, at most for the time.
// When one does not, all go on, and the error says why. lease is the shortest.
func (s *suspension) suspend(ctx context.Context, timeout time.Duration) (lease time.Duration, err error) {
	release, err := s.agent.settler.take(ctx)
	if err != nil {
		return 0, err
	}
	defer release()
	deadline := time.Now().Add(timeout)
	for _, d := range s.agent.sup.ReadyOnes(func(d workload.Service) bool { return d.Suspend != "" }) {
		s.set(d.Name, true, "")
		var l time.Duration
		if l, err = s.suspendOne(ctx, d, deadline); err != nil {
			err = fmt.Errorf("%s: %w", d.Name, err)
			s.set(d.Name, true, err.Error())
			break
		}
		if l > 0 && (lease == 0 || l < lease) {
			lease = l
		}
	}
	if err != nil {
		s.agent.goBackground(s.agent.settler.wake)
	}
	return lease, err
}

// suspendOne asks until the service holds still or the time is over. One that takes too long
// to answer is asked again: on a slow or loaded host its next answer comes in time.
func (s *suspension) suspendOne(ctx context.Context, d workload.Service, deadline time.Time) (time.Duration, error) {
	for {
		var answer struct {
			State   string `json:"state"`
			Reason  string `json:"reason"`
			LeaseMS int64  `json:"lease_ms"`
		}
		err := s.ask(ctx, d, "suspend", &answer)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && time.Now().Before(deadline) {
			err, answer.Reason = nil, err.Error()
		}
		switch {
		case err != nil:
			return 0, err
		case answer.State == "ready":
			return time.Duration(max(answer.LeaseMS, 0)) * time.Millisecond, nil
		case time.Now().After(deadline):
			return 0, fmt.Errorf("busy: %s", workload.Clip(answer.Reason))
		}
		select {
		case <-time.After(suspendPoll):
		case <-ctx.Done():
			return 0, fmt.Errorf("given up by the host: %s", workload.Clip(answer.Reason))
		}
	}
}

func (s *suspension) ask(ctx context.Context, d workload.Service, action string, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, suspendTimeout)
	defer cancel()
	b, err := workload.HTTPPost(ctx, d.Suspend, map[string]string{"action": action})
	if err != nil {
		return fmt.Errorf("%s: %w", action, err)
	}
	if err := json.Unmarshal(b, answer); err != nil {
		return fmt.Errorf("%s: its answer is no JSON", action)
	}
	return nil
}

// goOn tells every service that was asked to hold still to go on, again until it has
// taken it or ctx ends. One that does not run any more needs not be told. The caller
// has the turn.
func (s *suspension) goOn(ctx context.Context) error {
	for {
		var errs []error
		for _, d := range s.agent.services {
			if !s.isHeld(d.Name) {
				continue
			}
			err := s.goOnOne(ctx, d)
			if err == nil {
				s.set(d.Name, false, s.why(d.Name))
				continue
			}
			errs = append(errs, fmt.Errorf("%s: %w", d.Name, err))
		}
		if len(errs) == 0 {
			return nil
		}
		select {
		case <-time.After(goOnRetry):
		case <-ctx.Done():
			return errors.Join(errs...)
		}
	}
}

func (s *suspension) goOnOne(ctx context.Context, d workload.Service) error {
	if len(s.agent.sup.ReadyOnes(func(r workload.Service) bool { return r.Name == d.Name })) == 0 {
		return nil
	}
	var answer struct {
		State string `json:"state"`
	}
	err := s.ask(ctx, d, "resume", &answer)
	if err == nil && answer.State != "running" {
		err = fmt.Errorf("its state is %q", workload.Clip(answer.State))
	}
	return err
}

func (s *suspension) isHeld(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held[name]
}

// anyHeld reports whether a service was asked to hold still and not told to go on.
func (s *suspension) anyHeld() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held) > 0
}

func (s *suspension) why(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed[name]
}

func (s *suspension) set(name string, held bool, failed string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, name)
	if held {
		s.held[name] = true
	}
	s.failed[name] = failed
}

// report tells of the services that can hold still, as integrations of the image.
func (s *suspension) report() (out []guestproto.IntegrationState) {
	for _, d := range s.agent.services {
		if d.Suspend == "" {
			continue
		}
		state := "active"
		switch {
		case s.why(d.Name) != "":
			state = "error: " + s.why(d.Name)
		case s.isHeld(d.Name):
			state = "paused"
		case len(s.agent.sup.ReadyOnes(func(r workload.Service) bool { return r.Name == d.Name })) == 0:
			state = "pending"
		}
		out = append(out, guestproto.IntegrationState{Name: d.Name, Status: wireState(state), Image: true})
	}
	return out
}

func (a *Agent) answerSuspend(ctx context.Context, r guestproto.Suspend) guestproto.Response {
	timeout := min(time.Duration(max(r.DrainTimeoutSecs, 0))*time.Second, maxDrain)
	lease, err := a.suspension.suspend(ctx, timeout)
	result := ack(err)
	return guestproto.Response{SuspendAck: &guestproto.SuspendAck{Success: result.Success, Detail: result.Detail,
		LeaseMS: lease.Milliseconds()}}
}
