package guest

import (
	"context"

	"mvm/internal/guestproto"
)

// answerPreflight says whether the workload may get a message now.
func (a *Agent) answerPreflight(ctx context.Context) guestproto.Response {
	busy, why := a.busy(ctx)
	restarts, age := a.sup.Life()
	ack := guestproto.PreflightAck{Restarts: restarts, AgeMS: age.Milliseconds()}
	troubled := a.sup.Troubled()
	switch {
	case a.suspension.anyHeld():
		ack.Held, ack.Reason = true, "services hold still"
	case a.settler.anyDue(): // a channel's token may be among them
		ack.Held, ack.Reason = true, "services are still to be told of new secrets"
	case !a.sup.Ready():
		ack.Held, ack.Reason = true, notReady(a.sup.Status())
	case troubled != nil:
		ack.Held, ack.Broken, ack.Reason = true, true, troubled.Name+": "+troubled.Detail
	case busy:
		ack.Reason = why
	default:
		ack.Safe = true
	}
	return guestproto.Response{PreflightAck: &ack}
}

// dataFolder is where the workload keeps what must not be lost.
func (a *Agent) dataFolder() string {
	if exists(a.paths.Data) {
		return a.paths.Data
	}
	return "/"
}
