package agent

import (
	"context"

	"mvm"
	"mvm/internal/guestproto"
)

// lateReady looks whether the services of an instance are ready after all for which nobody
// waits any more. A guest tells of it too, unless it is of an older mvm.
func (a *Agent) lateReady(ctx context.Context, i mvm.Instance) {
	if i.State != mvm.StateRunning || i.Ready || i.Problem == "" {
		return
	}
	if st, err := a.statusWhileIdle(ctx, i); err == nil && st.Ready {
		a.readyAfterAll(i)
	}
}

// statusWhileIdle is status within the bounds of the idle loop's questions.
func (a *Agent) statusWhileIdle(ctx context.Context, i mvm.Instance) (st guestproto.Status, err error) {
	err = a.idle.Question(ctx, func(ctx context.Context) error {
		st, err = a.status(ctx, i)
		return err
	})
	return st, err
}

// status asks the instance's guest how its services are.
func (a *Agent) status(ctx context.Context, i mvm.Instance) (guestproto.Status, error) {
	resp, err := a.ask(ctx, i.ID, guestproto.Request{Status: true})
	if err != nil {
		return guestproto.Status{}, err
	}
	if resp.Status == nil {
		return guestproto.Status{}, mvm.Errorf(mvm.KindUnavailable, "ask for status: unexpected answer from the guest")
	}
	a.health.saw(i, *resp.Status)
	return *resp.Status, nil
}
