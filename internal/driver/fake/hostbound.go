package fake

import (
	"context"
	"errors"
	"fmt"
	"net"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/sys"
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
	var c *net.UnixConn
	err := errors.New("the host has no such port for guests")
	if port == guestproto.HostPort {
		err = sys.InFolder(m.spec.RunDir, func(d *sys.Folder) (err error) {
			c, err = d.Dial(ctx, fmt.Sprintf("v.sock_%d", port), sys.Peer{Self: true})
			return err
		})
	}
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
