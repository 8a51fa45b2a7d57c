package agent

import (
	"context"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/wait"
)

// lateReady looks whether the services of an instance are ready after all for which nobody
// waits any more. A guest tells of it too, unless it is of an older mvm.
func (a *Agent) lateReady(i mvm.Instance) {
	if i.State != mvm.StateRunning || i.Ready || i.Problem == "" {
		return
	}
	if st, err := a.statusWhileIdle(i); err == nil && st.Ready {
		a.readyAfterAll(i)
	}
}

// statusWhileIdle is status within the bounds of the idle loop's questions.
func (a *Agent) statusWhileIdle(i mvm.Instance) (guestproto.Status, error) {
	release, err := wait.Slot(a.ctx, a.idle.slots)
	if err != nil {
		return guestproto.Status{}, err
	}
	defer release()
	ctx, cancel := context.WithTimeout(a.ctx, min(idleAnswer, a.opt.Timeouts.Call))
	defer cancel()
	return a.status(ctx, i)
}

// status asks the instance's guest how its services are.
func (a *Agent) status(ctx context.Context, i mvm.Instance) (guestproto.Status, error) {
	resp, err := a.ask(ctx, i.ID, guestproto.Request{Status: true})
	if err != nil {
		return guestproto.Status{}, err
	}
	if resp.Status == nil {
		return guestproto.Status{}, mvm.Errorf(mvm.KindUnavailable, "ask for status: the guest gave another answer")
	}
	a.health.saw(i, *resp.Status)
	return *resp.Status, nil
}
