package main

import (
	"context"
	"net"

	"github.com/mdlayher/vsock"

	"mvm/internal/guest"
	"mvm/internal/guest/linux"
	"mvm/internal/guestproto"
	"mvm/internal/guestproto/mux"
)

// channel is the way to and from the host.
type channel struct {
	name  string
	host  guest.Host
	serve func(ctx context.Context, a *guest.Agent) error
	close func() error
}

// openChannel opens the virtio-serial port, or vsock where there is none.
func openChannel(cfg config) (channel, error) {
	port := cfg.port
	if port == "" {
		port = linux.FindPort()
	}
	if port == "" && cfg.vsock && linux.HasVsock() {
		return openVsock()
	}
	if port == "" {
		return channel{}, linux.NoChannel()
	}
	p, err := mux.OpenPort(port)
	if err != nil {
		return channel{}, err
	}
	c := guest.NewChannel(mux.NewServer(p))
	return channel{name: port, host: c, serve: c.Serve, close: c.Close}, nil
}

func openVsock() (channel, error) {
	l, err := vsock.Listen(guestproto.GuestPort, nil)
	if err != nil {
		return channel{}, err
	}
	dial := func(ctx context.Context) (net.Conn, error) {
		conn, err := vsock.Dial(vsock.Host, guestproto.HostPort, nil)
		if err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			conn.Close()
			return nil, err
		}
		return conn, nil
	}
	return channel{name: l.Addr().String(), host: guest.Dialer(dial), close: l.Close,
		serve: func(ctx context.Context, a *guest.Agent) error { return guest.ServeListener(ctx, l, a) }}, nil
}
