package fleet

import (
	"context"
	"errors"
	"reflect"
	"slices"

	"mvm"
	"mvm/internal/store"
)

// channelsUpdated records which channels of a pool came, changed or went.
func (f *Fleet) channelsUpdated(ctx context.Context, tx *store.Tx, pool mvm.Address, was, is []mvm.Channel) error {
	var errs []error
	tell := func(c mvm.Channel, how string) {
		errs = append(errs, f.opt.Journal.Append(ctx, tx, mvm.Event{Action: mvm.ChannelUpdated, Tenant: pool.Tenant, Pool: pool.Pool,
			Detail: "channel " + c.Name + " (" + string(c.Kind) + ") " + how}))
	}
	find := func(in []mvm.Channel, name string) int {
		return slices.IndexFunc(in, func(c mvm.Channel) bool { return c.Name == name })
	}
	for _, c := range is {
		switch n := find(was, c.Name); {
		case n < 0:
			tell(c, "added")
		case !reflect.DeepEqual(was[n], c):
			tell(c, "changed")
		}
	}
	for _, c := range was {
		if find(is, c.Name) < 0 {
			tell(c, "removed")
		}
	}
	return errors.Join(errs...)
}
