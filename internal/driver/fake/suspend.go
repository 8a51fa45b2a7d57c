package fake

import (
	"encoding/json"

	"mvm/internal/guestproto"
)

// suspend has the guest's service hold still, unless it is busy.
func (g *guestState) suspend(b Behavior) *guestproto.SuspendAck {
	if b.SuspendBusy != "" {
		detail := "main: busy: " + b.SuspendBusy
		g.Held = false
		return &guestproto.SuspendAck{Detail: &detail}
	}
	g.Held = b.Suspends
	return &guestproto.SuspendAck{Success: true, LeaseMS: b.Lease.Milliseconds()}
}

// settle has it go on.
func (g *guestState) settle(b Behavior) *guestproto.SettleAck {
	g.Held = false
	a := ack(b.Untold)
	return &guestproto.SettleAck{Success: a.Success, Detail: a.Detail}
}

// held is its state as an integration of the image.
func (g *guestState) held(b Behavior) []guestproto.IntegrationState {
	if !b.Suspends {
		return nil
	}
	status := `"active"`
	if g.Held {
		status = `"paused"`
	}
	return []guestproto.IntegrationState{{Name: "main", Status: json.RawMessage(status), Image: true}}
}
