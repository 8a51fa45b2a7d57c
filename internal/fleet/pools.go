package fleet

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"mvm"
	"mvm/internal/build"
	"mvm/internal/delta"
	"mvm/internal/egress"
	"mvm/internal/image"
	"mvm/internal/limits"
	"mvm/internal/plan"
	"mvm/internal/quota"
	"mvm/internal/store"
)

// maxBuilds bounds the builds that a pool remembers.
const maxBuilds = 10

// CreatePool puts a new pool on record and publishes its ports.
func (f *Fleet) CreatePool(ctx context.Context, tenant string, spec mvm.PoolSpec) (mvm.Pool, error) {
	if err := errors.Join(spec.Validate(), f.opt.Images.Check(spec.Flake)); err != nil {
		return mvm.Pool{}, err
	}
	p, err := f.DeclarePool(ctx, tenant, spec)
	if err != nil {
		return p, err
	}
	return p, unpublishedError(p)
}

// DeclarePool puts the pool on record. That its ports can't be published is not its error.
func (f *Fleet) DeclarePool(ctx context.Context, tenant string, spec mvm.PoolSpec) (p mvm.Pool, err error) {
	if err := errors.Join(spec.CheckExposed(nil), egress.Check(spec), limits.CheckPool(spec)); err != nil {
		return p, err
	}
	defer f.admin.Lock(tenant)()
	p = mvm.Pool{Tenant: tenant, Spec: spec, Created: time.Now()}
	err = f.opt.Store.Update(func(tx *store.Tx) error {
		t, err := tx.Tenant(tenant)
		if err != nil {
			return err
		}
		if t.Destroying {
			return mvm.Errorf(mvm.KindState, "create pool %s: the tenant is being destroyed", p.Address())
		}
		pools, err := tx.Pools(tenant)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(pools, func(o mvm.Pool) bool { return o.Spec.ID == spec.ID }) {
			return mvm.Errorf(mvm.KindExists, "pool %s already exists", p.Address())
		}
		if err := errors.Join(over(t.ID, quota.Pool(t.Quota, len(pools))), limits.CheckAsked(tenant, spec, nil, t.Ceilings)); err != nil {
			return err
		}
		if err := tx.PutPool(p); err != nil {
			return err
		}
		return errors.Join(f.opt.Journal.Append(ctx, tx, mvm.Event{Action: mvm.PoolCreated, Tenant: tenant, Pool: spec.ID}),
			f.channelsUpdated(ctx, tx, p.Address(), nil, spec.Channels))
	})
	if err != nil {
		f.quotaEvent(mvm.AskerFrom(ctx), tenant, spec.ID, err)
		return p, err
	}
	if len(spec.Channels) > 0 { // guests that have a channel's secret lose it
		if err := f.opt.Deliver.Later(tenant); err != nil {
			return p, err
		}
	}
	f.opt.Reconcile.Changed(tenant, spec.ID)
	if err := f.opt.Ports.Publish(); err != nil {
		return p, err
	}
	return f.Pool(ctx, tenant, spec.ID)
}

func (f *Fleet) quotaEvent(by mvm.Asker, tenant, pool string, err error) {
	if mvm.IsKind(err, mvm.KindQuota) {
		f.opt.Journal.Record(mvm.Event{Action: mvm.QuotaExceeded, Tenant: tenant, Pool: pool, By: by, Detail: err.Error()})
	}
}

// UpdatePool changes a pool and tells its guests.
func (f *Fleet) UpdatePool(ctx context.Context, tenant, pool string, up mvm.PoolUpdate) (mvm.Pool, error) {
	defer f.admin.Lock(tenant)()
	was, err := f.Pool(ctx, tenant, pool)
	if err != nil {
		return was, err
	}
	p, err := f.updatePool(ctx, tenant, pool, up)
	if err != nil {
		return p, err
	}
	if err := f.opt.Deliver.Tenant(ctx, tenant); err != nil {
		f.opt.Log.Warn("deliver pool change", "tenant", tenant, "pool", pool, "error", err)
	}
	if p, err = f.Pool(ctx, tenant, pool); err != nil || slices.Equal(was.Spec.Publish, p.Spec.Publish) {
		return p, err
	}
	return p, unpublishedError(p)
}

// updatePool puts the change on record; its guests are still to be told. That its ports
// can't be published is not its error.
func (f *Fleet) updatePool(ctx context.Context, tenant, pool string, up mvm.PoolUpdate) (p mvm.Pool, err error) {
	limitsChanged := false
	err = f.opt.Store.Update(func(tx *store.Tx) error {
		if p, err = tx.Pool(tenant, pool); err != nil || up.Spec == nil {
			return err
		}
		if err := up.Check(p); err != nil {
			return err
		}
		if up.Force {
			if _, err := f.endOverrides(tx, ctx, p.Address()); err != nil {
				return err
			}
		}
		if up.Spec.ID != pool || up.Spec.Role != p.Spec.Role {
			return mvm.Errorf(mvm.KindInvalid, "update pool %s: its id and role can't change", p.Address()).
				WithFix("destroy it and make another")
		}
		if err := errors.Join(up.Spec.Validate(), up.Spec.CheckExposed(&p.Spec), egress.Check(*up.Spec), limits.CheckPool(*up.Spec)); err != nil {
			return err
		}
		if up.Spec.Flake != p.Spec.Flake {
			err = f.opt.Images.Check(up.Spec.Flake)
		}
		if err := errors.Join(err, checkDisks(tx, tenant, *up.Spec), checkLimits(tx, p, *up.Spec)); err != nil {
			return err
		}
		if !slices.Equal(p.Spec.Publish, up.Spec.Publish) {
			p.Bound, p.Unpublished = nil, ""
		}
		limitsChanged = p.Spec.Limits != up.Spec.Limits
		changed, channels := delta.Text(p.Spec, *up.Spec, "env"), p.Spec.Channels
		p.Spec, p.Problem = *up.Spec, "" // what failed before is tried anew
		if err := tx.PutPool(p); err != nil || changed == "" {
			return err
		}
		return errors.Join(f.opt.Journal.Append(ctx, tx, mvm.Event{Action: mvm.PoolUpdated, Tenant: tenant, Pool: pool, Detail: changed}),
			f.channelsUpdated(ctx, tx, p.Address(), channels, p.Spec.Channels))
	})
	if err != nil {
		return p, err
	}
	f.opt.Reconcile.Changed(tenant, pool)
	f.opt.Networks.Changed()
	if limitsChanged {
		f.opt.Limits.Changed(ctx, p.Address())
	}
	return p, errors.Join(f.opt.Networks.Apply(ctx), f.opt.Ports.Publish())
}

// checkLimits refuses limits above the tenant's ceilings.
func checkLimits(tx *store.Tx, p mvm.Pool, want mvm.PoolSpec) error {
	t, err := tx.Tenant(p.Tenant)
	if err != nil {
		return err
	}
	return limits.CheckAsked(p.Tenant, want, &p.Spec, t.Ceilings)
}

// checkDisks refuses a spec for which a data disk would have to shrink.
func checkDisks(tx *store.Tx, tenant string, spec mvm.PoolSpec) error {
	instances, err := tx.Instances(tenant, spec.ID)
	for _, i := range instances {
		if err == nil {
			err = plan.CheckDisk(i, spec)
		}
	}
	return err
}

// Pools are a tenant's, or all.
func (f *Fleet) Pools(_ context.Context, tenant string) (out []mvm.Pool, err error) {
	err = f.opt.Store.View(func(tx *store.Tx) error {
		if tenant != "" {
			if _, err := tx.Tenant(tenant); err != nil {
				return err
			}
		}
		if out, err = tx.Pools(tenant); err != nil {
			return err
		}
		for n := range out {
			if err := warn(tx, &out[n]); err != nil {
				return err
			}
		}
		return nil
	})
	f.countInstances(out)
	for n := range out {
		out[n].Building = f.opt.Builds.Of(out[n].Address())
	}
	return out, err
}

// countInstances fills in how many instances the pools have. It reads none of them.
func (f *Fleet) countInstances(pools []mvm.Pool) {
	for _, n := range f.opt.Store.Fleet() {
		i := slices.IndexFunc(pools, func(p mvm.Pool) bool { return p.Tenant == n.Tenant && p.Spec.ID == n.Pool })
		if i < 0 {
			continue
		}
		if pools[i].Instances == nil {
			pools[i].Instances = map[mvm.State]int{}
		}
		pools[i].Instances[n.State] = n.Instances
	}
}

// LogWarnings tells at the start what is in force and should not stay.
func (f *Fleet) LogWarnings(ctx context.Context) {
	pools, err := f.Pools(ctx, "")
	if err != nil {
		f.opt.Log.Error("look for what should not stay", "error", err)
	}
	for _, p := range pools {
		for _, w := range p.Warnings {
			f.opt.Log.Warn("pool should be changed", "pool", p.Address().String(), "warning", w)
		}
	}
}

// warn fills in the pool's warnings, and the limits in force.
func warn(tx *store.Tx, p *mvm.Pool) error {
	t, err := tx.Tenant(p.Tenant)
	if err == nil {
		p.InForce = limits.InForce(p.Spec.Limits, t.Ceilings, p.Spec.Resources.VCPUs)
		p.Warnings = p.Spec.Warnings(t.SecretNames)
		if !t.Closed {
			p.Warnings = append(p.Warnings, openNetwork(t.ID))
		}
	}
	return err
}

// Pool is the one of that name, and how its instances are.
func (f *Fleet) Pool(_ context.Context, tenant, pool string) (p mvm.Pool, err error) {
	err = f.opt.Store.View(func(tx *store.Tx) error {
		if p, err = tx.Pool(tenant, pool); err != nil {
			return err
		}
		if err := warn(tx, &p); err != nil {
			return err
		}
		all, err := tx.Instances(tenant, pool)
		p.Health = f.poolHealth(all)
		return err
	})
	if err != nil {
		return p, err
	}
	told := []mvm.Pool{p}
	f.countInstances(told)
	told[0].Building = f.opt.Builds.Of(p.Address())
	return told[0], nil
}

// StartBuild begins to build the pool's image, or joins the build of it that is under way.
func (f *Fleet) StartBuild(ctx context.Context, tenant, pool string) (build.Run, error) {
	p, err := f.Pool(ctx, tenant, pool)
	if err != nil {
		return build.Run{}, err
	}
	if p.Destroying {
		return build.Run{}, mvm.Errorf(mvm.KindState, "build pool %s: it is being destroyed", p.Address())
	}
	r, err := f.opt.Builds.Start(ctx, p.Address(), image.Request{Ref: p.Spec.Flake, Role: p.Spec.Role, Profile: p.Spec.Profile, Tenant: tenant})
	f.quotaEvent(mvm.AskerFrom(ctx), tenant, pool, err)
	if err != nil {
		return r, mvm.Errorf(mvm.KindOf(err), "build pool %s: %w", p.Address(), err)
	}
	return r, nil
}

// BuildPool builds the pool's image, and has its next boots use it. When ctx ends it waits no
// longer, and the build goes on.
func (f *Fleet) BuildPool(ctx context.Context, tenant, pool string, progress func(mvm.Progress)) (mvm.Build, error) {
	r, err := f.StartBuild(ctx, tenant, pool)
	if err != nil {
		return mvm.Build{}, err
	}
	at := mvm.Address{Tenant: tenant, Pool: pool}
	b, err := f.opt.Builds.Wait(ctx, r.ID, at, progress)
	if err != nil && !errors.Is(err, mvm.ErrAway) {
		err = mvm.Errorf(mvm.KindOf(err), "build pool %s: %w", at, err)
	}
	return b, err
}

// Built makes the image that the build gave the one of the pool.
func (f *Fleet) Built(ctx context.Context, at mvm.Address, r build.Run, digest string) (mvm.Build, error) {
	b := mvm.Build{ID: r.ID, Flake: r.Ref, Role: r.Role, Profile: r.Profile, Digest: digest, Built: time.Now()}
	err := f.opt.Store.Update(func(tx *store.Tx) error {
		p, err := tx.Pool(at.Tenant, at.Pool)
		if err != nil {
			return err
		}
		if len(p.Builds) > 0 && p.Builds[0].Digest == b.Digest && p.Builds[0].Of(p.Spec) && p.Builds[0].Profile == b.Profile {
			b = p.Builds[0]
			return tx.SetPoolProblem(p.Address(), "")
		}
		if b.ID, err = f.newBuildID(tx, p, r.ID); err != nil {
			return err
		}
		p.Problem = ""
		p.Builds = slices.Insert(p.Builds, 0, b)
		p.Builds = p.Builds[:min(len(p.Builds), maxBuilds)]
		if err := tx.PutPool(p); err != nil {
			return err
		}
		return f.opt.Journal.Append(ctx, tx, mvm.Event{Action: mvm.PoolBuilt, Tenant: at.Tenant, Pool: at.Pool, Detail: b.Digest})
	})
	f.opt.Reconcile.Changed(at.Tenant, at.Pool)
	return b, err
}

// newBuildID makes an id that no build of the pool has, and no instance names, whose
// build the pool may have forgotten: the wanted one, where it can.
func (f *Fleet) newBuildID(tx *store.Tx, p mvm.Pool, want string) (string, error) {
	all, err := tx.Instances(p.Tenant, p.Spec.ID)
	if err != nil {
		return "", err
	}
	taken := func(id string) (bool, error) {
		return slices.ContainsFunc(p.Builds, func(b mvm.Build) bool { return b.ID == id }) ||
			slices.ContainsFunc(all, func(i mvm.Instance) bool { return i.BuildID == id }), nil
	}
	if is, _ := taken(want); !is {
		return want, nil
	}
	return f.NewID("b-", taken)
}

// RollbackPool goes back to an earlier build.
func (f *Fleet) RollbackPool(ctx context.Context, tenant, pool, build string) (b mvm.Build, err error) {
	p, err := f.Pool(ctx, tenant, pool)
	if err != nil {
		return b, err
	}
	n, err := earlierBuild(p, build)
	if err != nil {
		return b, err
	}
	if err := f.opt.Images.Bootable(ctx, mvm.Instance{Tenant: tenant, Pool: pool, Image: p.Builds[n].Digest}); err != nil {
		return b, mvm.Errorf(mvm.KindOf(err), "roll back pool %s: %w", p.Address(), err)
	}
	build = p.Builds[n].ID // what was looked at
	err = f.opt.Store.Update(func(tx *store.Tx) error {
		p, err := tx.Pool(tenant, pool)
		if err != nil {
			return err
		}
		n, err := earlierBuild(p, build)
		if err != nil {
			return err
		}
		b = p.Builds[n]
		p.Builds = slices.Insert(slices.Delete(p.Builds, n, n+1), 0, b)
		p.Spec.Flake, p.Spec.Profile = b.Flake, cmp.Or(b.Profile, p.Spec.Profile) // or it would be built anew
		if err := tx.PutPool(p); err != nil {
			return err
		}
		return f.opt.Journal.Append(ctx, tx, mvm.Event{Action: mvm.PoolBuilt, Tenant: tenant, Pool: pool, Detail: "rolled back to " + b.ID})
	})
	f.opt.Reconcile.Changed(tenant, pool)
	return b, err
}

// earlierBuild finds a build of the pool, "" being the one before the present one.
func earlierBuild(p mvm.Pool, build string) (int, error) {
	n, which := 1, "build before the present one"
	if build != "" {
		which = "build " + build
		n = slices.IndexFunc(p.Builds, func(b mvm.Build) bool { return b.ID == build })
	}
	if n < 0 || n >= len(p.Builds) {
		return 0, mvm.Errorf(mvm.KindNotFound, "roll back pool %s: it has no %s", p.Address(), which).WithFix("see `mvm pool info %s`", p.Address())
	}
	return n, nil
}

// GCPool forgets builds that no instance uses.
func (f *Fleet) GCPool(ctx context.Context, tenant, pool string) (gone []mvm.Build, err error) {
	err = f.opt.Store.Update(func(tx *store.Tx) error {
		gone = nil
		p, err := tx.Pool(tenant, pool)
		if err != nil {
			return err
		}
		instances, err := tx.Instances(tenant, pool)
		if err != nil {
			return err
		}
		var keep []mvm.Build
		for n, b := range p.Builds {
			used := slices.ContainsFunc(instances, func(i mvm.Instance) bool { return i.BuildID == b.ID })
			if n < 2 || used {
				keep = append(keep, b)
			} else {
				gone = append(gone, b)
			}
		}
		if len(gone) == 0 {
			return nil
		}
		p.Builds = keep
		if err := tx.PutPool(p); err != nil {
			return err
		}
		return f.opt.Journal.Append(ctx, tx, mvm.Event{Action: mvm.BuildsRemoved, Tenant: tenant, Pool: pool, Detail: buildIDs(gone)})
	})
	return gone, err
}

func buildIDs(builds []mvm.Build) string {
	ids := make([]string, len(builds))
	for n, b := range builds {
		ids[n] = b.ID
	}
	return strings.Join(ids, ", ")
}

// DestroyPool destroys the pool and its instances.
func (f *Fleet) DestroyPool(ctx context.Context, tenant, pool string, progress func(mvm.Progress)) error {
	defer f.admin.Lock(tenant)()
	return f.destroyPool(ctx, tenant, pool, progress)
}

func (f *Fleet) destroyPool(ctx context.Context, tenant, pool string, progress func(mvm.Progress)) error {
	p, err := f.Pool(ctx, tenant, pool)
	if err != nil {
		return err
	}
	err = f.opt.Store.Update(func(tx *store.Tx) error {
		p, err := tx.Pool(tenant, pool)
		if err != nil {
			return err
		}
		p.Destroying = true
		return tx.PutPool(p)
	})
	if err != nil {
		return err
	}
	if err := f.opt.Builds.Drop(ctx, p.Address()); err != nil {
		return err
	}
	for left := true; left; {
		if err := f.destroyInstances(ctx, p.Address(), progress); err != nil {
			return err
		}
		err = f.opt.Store.Update(func(tx *store.Tx) error {
			// A gateway may have had one made just before the pool was doomed.
			more, err := tx.Instances(tenant, pool)
			if left = len(more) > 0; left || err != nil {
				return err
			}
			if err := tx.DeletePool(tenant, pool); err != nil {
				return err
			}
			return f.opt.Journal.Append(ctx, tx, mvm.Event{Action: mvm.PoolDestroyed, Tenant: tenant, Pool: pool})
		})
		if err != nil {
			return err
		}
	}
	return f.opt.Ports.Publish()
}

// destroyInstances destroys the instances that the pool has now.
func (f *Fleet) destroyInstances(ctx context.Context, pool mvm.Address, progress func(mvm.Progress)) error {
	instances, err := f.Instances(ctx, pool)
	if err != nil {
		return err
	}
	for _, i := range instances {
		if err := f.opt.Queue.Destroy(ctx, i.ID, "its pool is destroyed", progress); err != nil && !mvm.IsKind(err, mvm.KindNotFound) {
			return err
		}
	}
	return nil
}

// unpublishedError is what a change of a pool ends with whose ports are not served.
func unpublishedError(p mvm.Pool) error {
	if p.Unpublished == "" {
		return nil
	}
	return mvm.Errorf(mvm.KindUnavailable, "pool %s is updated, but not all of its ports are published: %s", p.Address(), p.Unpublished).
		WithFix("free the address (the agent retries every few seconds), or publish another one")
}

// poolHealth sums up how the running instances of a pool are, nil where none runs.
func (f *Fleet) poolHealth(all []mvm.Instance) *mvm.PoolHealth {
	var p *mvm.PoolHealth
	for _, i := range all {
		if i.State != mvm.StateRunning {
			continue
		}
		if p == nil {
			p = &mvm.PoolHealth{}
		}
		f.opt.Watch.Observe(&i)
		p.Add(i)
	}
	return p
}
