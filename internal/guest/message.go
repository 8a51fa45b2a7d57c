package guest

import (
	"context"

	"mvm/internal/guestproto"
)

// answerPreflight says whether the workload may get a message now.
func (a *Agent) answerPreflight(ctx context.Context) guestproto.Response {
	ack := guestproto.PreflightAck{}
	switch busy, why := a.busy(ctx); {
	case a.suspension.anyHeld():
		ack.Held, ack.Reason = true, "services hold still"
	case a.settler.anyDue(): // a channel's token may be among them
		ack.Held, ack.Reason = true, "services are still to be told of new secrets"
	case !a.sup.Ready():
		ack.Held, ack.Reason = true, notReady(a.sup.Status())
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
