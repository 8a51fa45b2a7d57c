package fleet

import (
	"context"

	"mvm"
	"mvm/internal/store"
)

// openNetwork is the warning of a tenant from before networks were closed by default.
func openNetwork(tenant string) string {
	return "the tenant's network is open: guests reach private networks, and users' instances each other; egress and peers have no effect; close it with mvm tenant update " + tenant + " --closed"
}

// dnsClosed tells closed tenants of what they did not have when they were made.
const dnsClosed = "guests ask mvm for names, at their gateway address; port 53 of other addresses is closed but for what the egress of their pool allows"

// told is where the store notes that the tenant was told of a change of mvm's, or is newer.
func told(what string, t mvm.Tenant) string {
	return what + "-told:" + t.ID + ":" + t.Created.UTC().Format("20060102T150405.000000000")
}

const (
	toldOpen = "open"
	toldDNS  = "dns"
)

// TellChanges records, once for each tenant, what newer versions of mvm changed for it: that its
// network is open as it was before networks were closed by default, or that its guests reach name
// servers elsewhere no longer.
func (f *Fleet) TellChanges(ctx context.Context) error {
	return f.opt.Store.Update(func(tx *store.Tx) error {
		tenants, err := tx.Tenants()
		if err != nil {
			return err
		}
		for _, t := range tenants {
			e := mvm.Event{Action: mvm.TenantUpdated, Tenant: t.ID, Why: "the tenant is from before networks were closed by default", Detail: openNetwork(t.ID)}
			what := toldOpen
			if t.Closed {
				what, e.Why, e.Detail = toldDNS, "the tenant is from before mvm answered guests' questions for names", dnsClosed
			}
			if err := f.tellOnce(ctx, tx, told(what, t), e); err != nil {
				return err
			}
		}
		return nil
	})
}

// tellOnce records the event, unless the store has noted that.
func (f *Fleet) tellOnce(ctx context.Context, tx *store.Tx, note string, e mvm.Event) error {
	if _, has, err := tx.Meta(note); err != nil || has {
		return err
	}
	if err := tx.PutMeta(note, "1"); err != nil {
		return err
	}
	return f.opt.Journal.Append(ctx, tx, e)
}
