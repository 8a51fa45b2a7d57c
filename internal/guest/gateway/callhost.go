package gateway

import (
	"context"

	"mvm"
	"mvm/internal/guestproto"
)

// Caller sends one request of port 53 and returns the answer.
type Caller interface {
	Call(ctx context.Context, req guestproto.HostRequest) (guestproto.HostResponse, error)
}

// HostOver returns the Host at the other end of c.
func HostOver(c Caller) Host { return callHost{c} }

type callHost struct{ caller Caller }

func (h callHost) Acquire(ctx context.Context, a guestproto.Acquire) (guestproto.AcquireResult, error) {
	resp, err := h.caller.Call(ctx, guestproto.HostRequest{Acquire: &a})
	if err != nil {
		return guestproto.AcquireResult{}, err
	}
	if resp.AcquireResult == nil {
		return guestproto.AcquireResult{}, mvm.Errorf(mvm.KindInternal, "acquire from pool %s: unexpected answer from the host", a.PoolID)
	}
	return *resp.AcquireResult, nil
}

func (h callHost) ReportActivity(ctx context.Context, r guestproto.ReportActivity) error {
	_, err := h.caller.Call(ctx, guestproto.HostRequest{ReportActivity: &r})
	return err
}
