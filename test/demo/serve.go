package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// server serves the tenant's guests on this host until the demo ends.
type server struct {
	*http.Server
	served chan error
}

// serve serves at the address until the demo ends, and returns the address with the port.
func (d *demo) serve(host netip.Addr, port int, h http.Handler) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host.String(), strconv.Itoa(port)))
	if err != nil {
		return "", err
	}
	s := &server{&http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}, make(chan error, 1)}
	go func() { s.served <- s.Serve(l) }()
	d.servers = append(d.servers, s)
	return l.Addr().String(), nil
}

// hostAddr waits until the tenant has its network, and returns the host's address there.
func (d *demo) hostAddr(ctx context.Context) (netip.Addr, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("the tenant has no network; see what `mvm new` says"))
	defer cancel()
	for {
		var t struct{ Subnet netip.Prefix }
		info := exec.CommandContext(ctx, d.mvm, "tenant", "info", d.tenant, "-o", "json")
		info.Env = append(os.Environ(), "MVM_NO_AUTOSTART=1") // mvm new starts the agent
		out, err := info.Output()
		if err == nil {
			err = json.Unmarshal(out, &t)
		}
		if at := t.Subnet.Addr().Next(); err == nil && isLocal(at) {
			return at, nil
		}
		select {
		case <-ctx.Done():
			return netip.Addr{}, context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// isLocal reports whether an interface of this host has the address.
func isLocal(at netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(all, func(a net.Addr) bool { return strings.HasPrefix(a.String(), at.String()+"/") })
}

// stop ends what serve has started.
func (d *demo) stop() error {
	var errs []error
	if d.bot != nil {
		d.bot.Close()
	}
	for _, s := range d.servers {
		errs = append(errs, s.Close())
		if err := <-s.served; !errors.Is(err, http.ErrServerClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
