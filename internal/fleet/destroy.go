package fleet

import (
	"context"
	"time"

	"mvm"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// destroyEvery is the pause between looks at what is being destroyed.
const destroyEvery = 30 * time.Second

// Run goes on with destructions of tenants and pools, and rotations of keys, that failed
// half-way or were cut off, until ctx ends.
func (f *Fleet) Run(ctx context.Context) {
	finish := func() {
		for _, d := range f.doomed() {
			f.finishDestroy(ctx, d)
		}
		f.finishRotations(ctx)
	}
	finish()
	wait.Every(ctx, destroyEvery, finish)
}

// doomed are the tenants and pools whose destruction has begun.
func (f *Fleet) doomed() (out []mvm.Address) {
	err := f.opt.Store.View(func(tx *store.Tx) error {
		tenants, err := tx.Tenants()
		if err != nil {
			return err
		}
		pools, err := tx.Pools("")
		if err != nil {
			return err
		}
		gone := map[string]bool{}
		for _, t := range tenants {
			if t.Destroying {
				gone[t.ID] = true
				out = append(out, mvm.Address{Tenant: t.ID})
			}
		}
		for _, p := range pools {
			if p.Destroying && !gone[p.Tenant] {
				out = append(out, p.Address())
			}
		}
		return nil
	})
	if err != nil {
		f.opt.Log.Error("list what is being destroyed", "error", err)
	}
	return out
}

// finishDestroy goes on with a destruction that was cut off, unless it is done by now.
func (f *Fleet) finishDestroy(ctx context.Context, what mvm.Address) {
	ctx = mvm.WithAsker(ctx, mvm.Asker{Kind: mvm.AskerAgent})
	var err error
	if what.Pool == "" {
		err = f.finishTenant(ctx, what.Tenant)
	} else {
		err = f.finishPool(ctx, what)
	}
	if err != nil && !mvm.IsKind(err, mvm.KindNotFound) && ctx.Err() == nil {
		f.opt.Log.Error("finish a destruction that was cut off", "what", what.String(), "error", err)
	}
}

// finishTenant goes on with a tenant. A new one of that name is let be.
func (f *Fleet) finishTenant(ctx context.Context, id string) error {
	defer f.admin.Lock(id)()
	t, _, err := f.Tenant(ctx, id)
	if err != nil || !t.Destroying {
		return err
	}
	return f.destroyTenant(ctx, id, nil)
}

// finishPool goes on with a pool. A new one of that name is let be.
func (f *Fleet) finishPool(ctx context.Context, what mvm.Address) error {
	defer f.admin.Lock(what.Tenant)()
	p, err := f.Pool(ctx, what.Tenant, what.Pool)
	if err != nil || !p.Destroying {
		return err
	}
	return f.destroyPool(ctx, what.Tenant, what.Pool, nil)
}
