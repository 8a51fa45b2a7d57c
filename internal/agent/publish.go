package agent

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/publish"
	"mvm/internal/store"
)

// Publisher serves the published ports of gateways on host addresses; see package
// publish for what each method promises.
type Publisher interface {
	Apply(bindings []publish.Binding) ([]netip.AddrPort, error)
	Close() error
}

// applyPublish makes the host's listeners agree with the pools, and keeps the ports
// that were chosen.
func (a *Agent) applyPublish(context.Context) error {
	a.publishing.Lock()
	defer a.publishing.Unlock()
	var pools []mvm.Pool
	err := a.store.View(func(tx *store.Tx) (err error) {
		pools, err = tx.Pools("")
		return err
	})
	if err != nil {
		return err
	}
	pools = slices.DeleteFunc(pools, func(p mvm.Pool) bool { return len(p.Spec.Publish) == 0 })
	var all []publish.Binding
	for _, p := range pools {
		for n, pub := range p.Spec.Publish {
			b := a.binding(p, pub)
			if n < len(p.Bound) {
				b.Bound = p.Bound[n]
			}
			all = append(all, b)
		}
	}
	bound, err := a.opt.Publisher.Apply(all)
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

func (a *Agent) binding(p mvm.Pool, pub mvm.Publish) publish.Binding {
	port := strconv.Itoa(pub.Guest)
	by := "publish:" + mvm.Asker(pub.String())
	return publish.Binding{Tenant: p.Tenant, Pool: p.Spec.ID, Publish: pub, Dial: func(ctx context.Context) (net.Conn, error) {
		got, err := a.acquire(ctx, p.Tenant, guestproto.Acquire{PoolID: p.Spec.ID}, by)
		if err != nil {
			return nil, err
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp4", net.JoinHostPort(got[0].IP.String(), port))
	}}
}
