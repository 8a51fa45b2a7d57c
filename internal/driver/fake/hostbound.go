package fake

import (
	"context"
	"net"
	"path/filepath"
	"strconv"

	"mvm"
	"mvm/internal/guestproto"
)

// Connect opens a stream from the instance's guest to a port of the host, as the
// guest's programs do: it comes in on <RunDir>/v.sock_<port>. KindState when the
// guest does not run.
func (h *Host) Connect(ctx context.Context, id string, port uint32) (net.Conn, error) {
	m := h.lookup(id)
	if m == nil {
		return nil, mvm.Errorf(mvm.KindState, "connect from %s: it has no VMM", id)
	}
	if v := m.describe(); v.State != Running {
		return nil, mvm.Errorf(mvm.KindState, "connect from %s: it is %s", id, v.State)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", filepath.Join(m.spec.RunDir, "v.sock_"+strconv.FormatUint(uint64(port), 10)))
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "connect from %s to port %d: %w", id, port, err)
	}
	return c, nil
}

// Ask sends a request from the instance's guest to the host's port 53 and returns
// the answer.
func (h *Host) Ask(ctx context.Context, id string, req guestproto.HostRequest) (guestproto.HostResponse, error) {
	c, err := h.Connect(ctx, id, guestproto.HostPort)
	if err != nil {
		return guestproto.HostResponse{}, err
	}
	defer c.Close()
	return guestproto.HostCall(ctx, c, req)
}
