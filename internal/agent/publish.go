package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

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
// that were chosen. What can't be published now is tried again while the agent runs.
func (a *Agent) applyPublish(context.Context) error {
	defer a.publishing.lock("ports")()
	err := a.publishAll()
	a.unpublished.Store(err != nil)
	if err != nil {
		return mvm.Errorf(mvm.KindOf(err), "publish ports: %w", err).
			WithFix("the agent tries again by itself; see `mvm doctor` for what is missing")
	}
	return nil
}

// keepPublished tries once more what could not be published: its address or port may
// have become free.
func (a *Agent) keepPublished() {
	if a.unpublished.Load() && a.applyPublish(a.ctx) == nil {
		a.log.Info("all ports are published again")
	}
}

// publishAll is applyPublish, with a.publishing held.
func (a *Agent) publishAll() error {
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
	// A port that can't be had has a zero address; the others are kept all the same.
	bound, err := a.opt.Publisher.Apply(all)
	errs := []error{err}
	for _, p := range pools {
		n := len(p.Spec.Publish)
		if len(bound) >= n {
			errs = append(errs, a.setBound(p.Tenant, p.Spec.ID, bound[:n:n]))
			bound = bound[n:]
		}
	}
	return errors.Join(errs...)
}

func (a *Agent) binding(p mvm.Pool, pub mvm.Publish) publish.Binding {
	port := strconv.Itoa(pub.Guest)
	by := "publish:" + mvm.Asker(pub.String())
	var open sync.Map // net.Conn -> func() that ends its use of the gateway
	dial := func(ctx context.Context) (net.Conn, error) {
		got, err := a.acquire(ctx, p.Tenant, guestproto.Acquire{PoolID: p.Spec.ID}, by)
		if err != nil {
			return nil, err
		}
		done := a.inUse(&a.published, got[0].InstanceID)
		c, err := dialShort(ctx, net.JoinHostPort(got[0].IP.String(), port))
		if err != nil {
			done()
			return nil, err
		}
		open.Store(c, done)
		return c, nil
	}
	closed := func(c net.Conn) {
		if done, ok := open.LoadAndDelete(c); ok {
			done.(func())()
		}
	}
	return publish.Binding{Tenant: p.Tenant, Pool: p.Spec.ID, Publish: pub, Dial: dial, Closed: closed}
}

// The first tries to connect to a guest that may have woken just now are short: a
// packet that was lost meanwhile would cost a second otherwise.
const (
	firstDial = 150 * time.Millisecond
	lastDial  = 5 * time.Second
)

// dialShort connects, with tries that grow longer, until ctx ends.
func dialShort(ctx context.Context, addr string) (net.Conn, error) {
	for wait := firstDial; ; wait = min(2*wait, lastDial) {
		d := net.Dialer{Timeout: wait}
		c, err := d.DialContext(ctx, "tcp4", addr)
		var slow net.Error
		if err == nil || ctx.Err() != nil || !(errors.As(err, &slow) && slow.Timeout()) {
			return c, err
		}
	}
}
