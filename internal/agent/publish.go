package agent

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/store"
)

// Publisher serves the published ports of gateways on host addresses.
type Publisher interface {
	// Apply makes the listeners exactly those of the bindings; one that is unchanged
	// goes on. It returns the address that each got, in order. After an error of one
	// binding the others are in force.
	Apply(ctx context.Context, bindings []Binding) ([]netip.AddrPort, error)
	// Close ends every listener and connection, and waits for them.
	Close() error
}

// Binding is one published port. Port 0 in Host: any free one.
type Binding struct {
	Name string // the pool's address and port, for logs and for telling bindings apart
	Host netip.AddrPort
	// Dial connects to a gateway that serves the port, waking one when none is awake.
	Dial func(ctx context.Context) (net.Conn, error)
}

// applyPublish makes the host's listeners agree with the pools, and keeps the ports
// that were chosen.
func (a *Agent) applyPublish(ctx context.Context) error {
	var pools []mvm.Pool
	err := a.store.View(func(tx *store.Tx) (err error) {
		pools, err = tx.Pools("")
		return err
	})
	if err != nil {
		return err
	}
	pools = slices.DeleteFunc(pools, func(p mvm.Pool) bool { return len(p.Spec.Publish) == 0 })
	var all []Binding
	for _, p := range pools {
		for n, pub := range p.Spec.Publish {
			host := pub.Host
			if n < len(p.Bound) && host.Port() == 0 {
				host = p.Bound[n]
			}
			all = append(all, a.binding(p, pub, host))
		}
	}
	bound, err := a.opt.Publisher.Apply(ctx, all)
	if err != nil {
		return mvm.Errorf(mvm.KindOf(err), "publish ports: %w", err)
	}
	for _, p := range pools {
		n := len(p.Spec.Publish)
		if err := a.setBound(p.Tenant, p.Spec.ID, bound[:n:n]); err != nil {
			return err
		}
		bound = bound[n:]
	}
	return nil
}

func (a *Agent) binding(p mvm.Pool, pub mvm.Publish, host netip.AddrPort) Binding {
	port := strconv.Itoa(pub.Guest)
	return Binding{Name: p.Address().String() + ":" + port, Host: host, Dial: func(ctx context.Context) (net.Conn, error) {
		got, err := a.acquire(ctx, p.Tenant, guestproto.Acquire{PoolID: p.Spec.ID}, "publish:"+mvm.Asker(host.String()))
		if err != nil {
			return nil, err
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp4", net.JoinHostPort(got[0].IP.String(), port))
	}}
}
