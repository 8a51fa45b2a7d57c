package live

import (
	"context"
	"errors"
	"net"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/driver"
	"mvm/internal/guestproto"
)

// Dial opens a stream to a port of the instance's guest.
func (v *VMMs) Dial(ctx context.Context, id string, port uint32) (net.Conn, error) {
	l := v.Of(id)
	if l == nil {
		return nil, mvm.Errorf(mvm.KindState, "reach guest of %s: it has no VMM", id)
	}
	if why := v.Stalled(id); why != "" {
		return nil, mvm.Errorf(mvm.KindUnavailable, "reach guest of %s: %w", id, mvm.HostFault(errors.New(why)))
	}
	c, err := l.vmm.Dial(ctx, port)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "reach guest of %s: %w", id, err)
	}
	return c, nil
}

// Ask sends one request to the guest agent and reads its answer, within the
// deadline of ctx or the default.
func (v *VMMs) Ask(ctx context.Context, id string, req guestproto.Request) (guestproto.Response, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, v.opt.Call)
		defer cancel()
	}
	c, err := v.Dial(ctx, id, guestproto.GuestPort)
	if err != nil {
		return guestproto.Response{}, err
	}
	defer c.Close()
	resp, err := guestproto.Call(ctx, c, req.WithID(mvm.RequestFrom(ctx)))
	if err != nil {
		return resp, mvm.Errorf(mvm.KindUnavailable, "ask guest of %s: %w", id, err)
	}
	if resp.Error != nil {
		return resp, mvm.Errorf(mvm.KindUnavailable, "guest of %s refused: %s", id, display.Clip(resp.Error.Message))
	}
	return resp, nil
}

// Stalled says why the instance's VM stands still though nobody paused it; "" where it
// does not.
func (v *VMMs) Stalled(id string) string {
	if l := v.Of(id); l != nil {
		if s, ok := l.vmm.(driver.Staller); ok {
			return s.Stalled()
		}
	}
	return ""
}
