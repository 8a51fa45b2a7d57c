package ingress

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
	"mvm/internal/display"
	"mvm/internal/guestproto"
	"mvm/internal/publish"
	"mvm/internal/store"
)

// Publisher serves the published ports of gateways on host addresses; see package
// publish for what each method promises.
type Publisher interface {
	Apply(bindings []publish.Binding) ([]publish.Outcome, error)
	Close() error
}

// Publish makes the host's listeners agree with the pools, and has on each pool's
// record which addresses it got and what could not be published. That is tried again
// while the agent runs.
func (in *Ingress) Publish() error {
	defer in.publishing.Lock("ports")()
	all, err := in.publishAll()
	in.unpublished.Store(!all || err != nil)
	if err != nil {
		return mvm.Errorf(mvm.KindOf(err), "publish ports: %w", err).WithFix("the agent retries; see `mvm doctor` for what is missing")
	}
	return nil
}

// RetryPublish tries once more what could not be published: its address or port may
// have become free.
func (in *Ingress) RetryPublish() {
	if !in.unpublished.Load() {
		return
	}
	if err := in.Publish(); err != nil {
		in.opt.Log.Error("publish ports again", "error", err)
	} else if !in.unpublished.Load() {
		in.opt.Log.Info("all ports are published again")
	}
}

// publishAll is Publish, with in.publishing held. all: every port is published.
func (in *Ingress) publishAll() (all bool, err error) {
	var pools []mvm.Pool
	err = in.opt.Store.View(func(tx *store.Tx) (err error) {
		pools, err = tx.Pools("")
		return err
	})
	if err != nil {
		return false, err
	}
	var bindings []publish.Binding
	for _, p := range pools {
		for n, pub := range p.Spec.Publish {
			b := in.binding(p, pub)
			if n < len(p.Bound) {
				b.Bound = p.Bound[n]
			}
			bindings = append(bindings, b)
		}
	}
	got, err := in.opt.Publisher.Apply(bindings)
	if err != nil {
		return false, err
	}
	all = true
	for _, p := range pools {
		n := len(p.Spec.Publish)
		whole, e := in.setPublished(p, got[:n])
		all, err, got = all && whole, errors.Join(err, e), got[n:]
	}
	return all, err
}

// setPublished keeps what became of a pool's ports. all: every one is published.
func (in *Ingress) setPublished(p mvm.Pool, got []publish.Outcome) (all bool, err error) {
	bound := make([]netip.AddrPort, len(got))
	var errs []error
	for n, o := range got {
		bound[n] = o.Addr
		errs = append(errs, o.Err)
	}
	problem := ""
	if err := errors.Join(errs...); err != nil {
		problem = display.Clip(err.Error())
	}
	all = problem == ""
	if slices.Equal(p.Bound, bound) && p.Unpublished == problem {
		return all, nil
	}
	if !all {
		in.opt.Log.Error("ports are not published", "pool", p.Address().String(), "error", problem)
	}
	return all, in.opt.Store.Update(func(tx *store.Tx) error {
		now, err := tx.Pool(p.Tenant, p.Spec.ID)
		switch {
		case mvm.IsKind(err, mvm.KindNotFound):
			return nil
		case err != nil || !slices.Equal(now.Spec.Publish, p.Spec.Publish): // who changed it since makes it so
			return err
		}
		now.Bound, now.Unpublished = bound, problem
		return tx.PutPool(now)
	})
}

func (in *Ingress) binding(p mvm.Pool, pub mvm.Publish) publish.Binding {
	port := strconv.Itoa(pub.Guest)
	by := mvm.Asker{Kind: mvm.AskerPublish, ID: pub.Place()}
	var open sync.Map // net.Conn -> func() that ends its use of the gateway
	dial := func(ctx context.Context) (net.Conn, error) {
		select {
		case <-in.opt.Recovered:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		got, err := in.acquire(ctx, p.Tenant, guestproto.Acquire{PoolID: p.Spec.ID}, by)
		if err != nil { // it is logged, and lines of a guest's log are not
			return nil, mvm.Errorf(mvm.KindOf(err), "%s", display.WithoutLog(err.Error()))
		}
		done := in.inUse(&in.published, got[0].InstanceID)
		c, err := in.dialShort(ctx, net.JoinHostPort(got[0].IP.String(), port))
		if err != nil {
			done()
			return nil, err
		}
		open.Store(c, done)
		in.forwards.add(got[0].InstanceID, c)
		if !in.opt.Instances.HasVMM(got[0].InstanceID) { // it has ended meanwhile
			in.forwards.cut(got[0].InstanceID)
		}
		return c, nil
	}
	closed := func(c net.Conn) {
		in.forwards.remove(c)
		if done, ok := open.LoadAndDelete(c); ok {
			done.(func())()
		}
	}
	return publish.Binding{Tenant: p.Tenant, Pool: p.Spec.ID, Publish: pub, Dial: dial, Closed: closed}
}

// forwards are the connections to gateways that published ports have open.
type forwards struct {
	mu sync.Mutex
	by map[net.Conn]string // -> instance
}

func (f *forwards) add(id string, c net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.by == nil {
		f.by = map[net.Conn]string{}
	}
	f.by[c] = id
}

func (f *forwards) remove(c net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.by, c)
}

// cut ends the connections to the gateway, which is gone: nothing comes from it any more,
// not even their end.
func (f *forwards) cut(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c, of := range f.by {
		if of == id {
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0) // there is nobody who would take an end in order
			}
			_ = c.Close()
			delete(f.by, c)
		}
	}
}

// The first tries to connect to a guest that may have woken just now are short: a
// packet that was lost meanwhile would cost a second otherwise.
const (
	firstDial = 150 * time.Millisecond
	lastDial  = 5 * time.Second
)

// dialShort connects, with tries that grow longer, until ctx ends.
func (in *Ingress) dialShort(ctx context.Context, addr string) (net.Conn, error) {
	for wait := firstDial; ; wait = min(2*wait, lastDial) {
		short, cancel := context.WithTimeout(ctx, wait)
		c, err := in.opt.DialGuest(short, "tcp4", addr)
		cancel()
		var slow net.Error
		if err == nil || ctx.Err() != nil || !(errors.As(err, &slow) && slow.Timeout()) {
			return c, err
		}
	}
}
