// Package aside keeps the snapshots of instances that could not be used and were set aside:
// it lists them, removes them, and bounds how many there are.
package aside

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"mvm"
	"mvm/internal/folders"
	"mvm/internal/snapshot"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// Store has the records.
type Store interface {
	View(fn func(*store.Tx) error) error
	Update(fn func(*store.Tx) error) error
}

// Host says what of this host snapshots belong to.
type Host interface {
	SnapshotHost(ctx context.Context) (snapshot.Host, error)
}

// Options are what a keeper is made of. All of them are required.
type Options struct {
	Store   Store
	Host    Host
	Folders folders.Folders
	Limits  snapshot.Limits
	Log     *slog.Logger
}

// Keeper keeps what was set aside. All methods may be called concurrently.
type Keeper struct{ opt Options }

// New makes a keeper.
func New(opt Options) *Keeper { return &Keeper{opt} }

// boundEvery is the time between looks at what was set aside.
const boundEvery = time.Hour

// Run bounds what was set aside until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	k.Bound()
	wait.Every(ctx, boundEvery, func() { k.Bound() })
}

// List are the snapshots of the instances that were set aside, and why each can't be restored.
func (k *Keeper) List(ctx context.Context, all []mvm.Instance) (out []mvm.AsideSnapshot, err error) {
	for _, i := range all {
		for _, s := range i.SetAside {
			host, err := k.opt.Host.SnapshotHost(ctx)
			if err != nil {
				return nil, err
			}
			out = append(out, mvm.AsideSnapshot{SetAside: s, Tenant: i.Tenant, Pool: i.Pool, Instance: i.ID,
				Until: s.At.Add(k.opt.Limits.Keep), Misfit: host.AsideMisfit(s, i)})
		}
	}
	return out, nil
}

// Remove removes a snapshot of the instance, for who asks.
func (k *Keeper) Remove(ctx context.Context, instance, id string) error {
	return k.remove(instance, id, mvm.Event{By: mvm.AskerFrom(ctx), Request: mvm.RequestFrom(ctx)})
}

// remove forgets a snapshot that was set aside, with the event, and then removes its
// files. What is left of them after a crash the next agent removes.
func (k *Keeper) remove(instance, id string, ev mvm.Event) error {
	var i mvm.Instance
	err := k.opt.Store.Update(func(tx *store.Tx) (err error) {
		if i, err = tx.Instance(instance); err != nil {
			return err
		}
		s, err := snapshot.FindAside(i, id)
		if err != nil {
			return err
		}
		if i.Op != nil && i.Op.Kind == mvm.OpRestore {
			return mvm.Errorf(mvm.KindState, "remove snapshot %s of %s: one is being brought back", id, i.Address())
		}
		snapshot.DropAside(&i, id)
		ev.Time, ev.Action, ev.Tenant, ev.Pool, ev.Instance = time.Now(), mvm.SnapshotDeleted, i.Tenant, i.Pool, i.ID
		ev.Detail = fmt.Sprintf("%s, set aside %s: %s", id, s.At.Format(time.RFC3339), s.Why)
		if _, err := tx.AppendEvent(ev); err != nil {
			return err
		}
		return tx.PutInstance(i)
	})
	if err != nil {
		return err
	}
	return k.opt.Folders.Snapshots(i).RemoveAside(id)
}

// Bound removes what was set aside beyond the limits, and returns the bytes that it
// freed.
func (k *Keeper) Bound() (freed int64) {
	var all []mvm.Instance
	err := k.opt.Store.View(func(tx *store.Tx) (err error) {
		all, err = tx.Instances("", "")
		return err
	})
	for _, e := range snapshot.Beyond(all, k.opt.Limits, time.Now()) {
		e2 := k.remove(e.Instance, e.ID, mvm.Event{By: mvm.Asker{Kind: mvm.AskerAgent}, Why: e.Why})
		if e2 == nil {
			freed += e.Bytes
		}
		err = errors.Join(err, e2)
	}
	if err != nil {
		k.opt.Log.Warn("bound what was set aside", "error", err)
	}
	return freed
}
