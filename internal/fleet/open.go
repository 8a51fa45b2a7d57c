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

// TellOpen records, once for each tenant, that its network is open as it was before networks
// were closed by default.
func (f *Fleet) TellOpen(ctx context.Context) error {
	return f.opt.Store.Update(func(tx *store.Tx) error {
		tenants, err := tx.Tenants()
		if err != nil {
			return err
		}
		for _, t := range tenants {
			told := "open-told:" + t.ID + ":" + t.Created.UTC().Format("20060102T150405.000000000")
			_, ok, err := tx.Meta(told)
			if err != nil || ok || t.Closed {
				if err != nil {
					return err
				}
				continue
			}
			if err := tx.PutMeta(told, "1"); err != nil {
				return err
			}
			if err := f.opt.Journal.Append(ctx, tx, mvm.Event{Action: mvm.TenantUpdated, Tenant: t.ID, Why: "the tenant is from before networks were closed by default", Detail: openNetwork(t.ID)}); err != nil {
				return err
			}
		}
		return nil
	})
}
