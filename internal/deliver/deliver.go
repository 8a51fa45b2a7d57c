// Package deliver gives guests their configuration: it builds it from the records, names it
// by a digest, delivers changes to the guests that run, and remembers who is owed one.
package deliver

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// Guests are the guests of the host.
type Guests interface {
	// HasVMM reports that the instance has a virtual machine.
	HasVMM(id string) bool
	// Ask asks the instance's guest.
	Ask(ctx context.Context, id string, req guestproto.Request) (guestproto.Response, error)
	// Told is called when a guest took a configuration that its services are still to be
	// told of.
	Told(id string)
}

// Secrets opens what is sealed.
type Secrets interface {
	OpenSecrets(t mvm.Tenant, sealed []byte) (map[string][]byte, error)
	// ChannelKey is the key of a channel of a gateway pool.
	ChannelKey(tenant, pool, channel string) ([]byte, error)
}

// Store has the records.
type Store interface {
	View(fn func(*store.Tx) error) error
	Update(fn func(*store.Tx) error) error
}

// Options are what a deliverer is made of.
type Options struct {
	Store   Store
	Guests  Guests
	Secrets Secrets
	Log     *slog.Logger
	// Resolvers returns the host's, as they are now; nil: guests get none.
	Resolvers func() []netip.Addr
	// Answers: guests of closed tenants ask mvm for names, at their gateway address.
	Answers bool
	// Call bounds one request to a guest.
	Call time.Duration
}

// Deliverer gives guests their configuration. All methods may be called concurrently.
type Deliverer struct {
	opt     Options
	pushing wait.Locks   // one configuration to an instance at a time
	owed    wait.Pending // instances whose guests do not have their present configuration
	dns     resolvers
}

// New makes a deliverer that owes nobody anything.
func New(opt Options) *Deliverer { return &Deliverer{opt: opt} }

// Lock keeps others from giving the instance's guest a configuration, until unlock: so no
// older one arrives after one that is built and delivered meanwhile.
func (d *Deliverer) Lock(id string) (unlock func()) { return d.pushing.Lock(id) }

// Owe remembers that the instance's guest may not have its present configuration; Retry
// delivers it.
func (d *Deliverer) Owe(id string) { d.owed.Set(id, true) }

// Push gives a running guest its configuration anew, without clock and entropy.
// One that does not take it gets it later: see Retry.
func (d *Deliverer) Push(ctx context.Context, i mvm.Instance) error {
	defer d.pushing.Lock(i.ID)() // so that what arrives last is the newest
	d.owed.Set(i.ID, false)      // before the configuration is read: a change after that sets it again
	err := d.push(ctx, i)
	if err != nil {
		d.owed.Set(i.ID, true) // it is told again
	}
	return err
}

func (d *Deliverer) push(ctx context.Context, i mvm.Instance) error {
	cfg, err := d.Config(i, "update")
	if err != nil {
		return err
	}
	// A guest that does not answer must not hold up those after it for as long as the
	// asker would wait.
	ctx, cancel := context.WithTimeout(ctx, d.opt.Call)
	defer cancel()
	resp, err := d.opt.Guests.Ask(ctx, i.ID, guestproto.Request{Configure: &cfg})
	if err != nil {
		return err
	}
	if resp.ConfigureAck == nil || !resp.ConfigureAck.Success {
		return mvm.Errorf(mvm.KindUnavailable, "update configuration of %s: the guest did not accept it", i.ID)
	}
	if resp.ConfigureAck.Settling {
		defer d.opt.Guests.Told(i.ID)
	}
	return d.opt.Store.Update(func(tx *store.Tx) error {
		now, err := tx.Instance(i.ID)
		if err != nil {
			return err
		}
		now.SecretsGeneration = cfg.Generation
		return tx.PutInstance(now)
	})
}

// Bounds of what goes on at the same time.
const (
	deliverers    = 16 // guests that get a change
	tenantsAtOnce = 8  // whose guests get what they are owed
)

// receivers are the running instances of the tenant, of all where it is "".
func (d *Deliverer) receivers(tenant string) (out []mvm.Instance, err error) {
	err = d.opt.Store.View(func(tx *store.Tx) error {
		if tenant != "" {
			if _, err := tx.Tenant(tenant); err != nil {
				return err
			}
		}
		out, err = tx.Instances(tenant, "")
		return err
	})
	return slices.DeleteFunc(out, func(i mvm.Instance) bool { return !d.runs(i) }), err
}

func (d *Deliverer) runs(i mvm.Instance) bool {
	return i.State == mvm.StateRunning && d.opt.Guests.HasVMM(i.ID)
}

// Tenant pushes the configuration to every running instance of the tenant, so that one
// that is mute costs no other its time.
func (d *Deliverer) Tenant(ctx context.Context, tenant string) error {
	instances, err := d.receivers(tenant)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var errs []error
	wait.Each(instances, deliverers, func(i mvm.Instance) {
		if err := d.Push(ctx, i); err != nil {
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		}
	})
	if len(errs) > 0 {
		return mvm.Errorf(mvm.KindUnavailable, "stored, but %d running guests did not accept it: %w", len(errs), errors.Join(errs...)).
			WithFix("the agent retries; the guests get it at their next wake at the latest")
	}
	return nil
}

// Later leaves a change of the tenant, or of all where it is "", to Retry.
func (d *Deliverer) Later(tenant string) error {
	instances, err := d.receivers(tenant)
	for _, i := range instances {
		d.owed.Set(i.ID, true)
	}
	return err
}

// Owed gives the tenants' guests now what was left for later. What they do not
// take stays so.
func (d *Deliverer) Owed(ctx context.Context, tenants []string) {
	owed := d.owed.All()
	wait.Each(tenants, tenantsAtOnce, func(tenant string) {
		instances, err := d.receivers(tenant)
		instances = slices.DeleteFunc(instances, func(i mvm.Instance) bool { return !slices.Contains(owed, i.ID) })
		if len(instances) > 0 {
			err = d.Tenant(ctx, tenant)
		}
		if err != nil && ctx.Err() == nil {
			d.opt.Log.Warn("deliver change", "tenant", tenant, "error", err)
		}
	})
}

// Retry tries the guests again that did not take a change.
func (d *Deliverer) Retry(ctx context.Context) {
	wait.Each(d.owed.All(), deliverers, func(id string) { d.redeliver(ctx, id) })
}

// redeliver tries one guest. One that does not run gets its configuration by the gate.
func (d *Deliverer) redeliver(ctx context.Context, id string) {
	var i mvm.Instance
	err := d.opt.Store.View(func(tx *store.Tx) (err error) {
		i, err = tx.Instance(id)
		return err
	})
	if err != nil || !d.runs(i) {
		d.owed.Set(id, false)
		return
	}
	if i.Op != nil { // its operation may have paused it, and ends with a gate
		return
	}
	if err := d.Push(ctx, i); err != nil && ctx.Err() == nil {
		d.opt.Log.Warn("deliver configuration", "instance", id, "error", err)
	}
}
