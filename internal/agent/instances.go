package agent

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/store"
)

// CreateInstance implements api.Service.
func (a *Agent) CreateInstance(ctx context.Context, tenant, pool, key string) (mvm.Instance, error) {
	if key != "" {
		if err := mvm.ValidateKey(key); err != nil {
			return mvm.Instance{}, err
		}
	}
	var i mvm.Instance
	by := mvm.AskerFrom(ctx)
	err := a.store.Update(func(tx *store.Tx) (err error) {
		i, err = a.newInstance(tx, tenant, pool, key, mvm.Op{Kind: mvm.OpCreate, By: by, Started: time.Now(), Request: mvm.RequestFrom(ctx)})
		return err
	})
	if err != nil {
		a.quotaEvent(ctx, tenant, pool, err)
		return i, err
	}
	a.networks.Changed()
	return a.submit(ctx, i.ID, request{op: mvm.OpCreate, by: by}, nil)
}

// newInstance records a new instance within the quota, with its address and user.
func (a *Agent) newInstance(tx *store.Tx, tenant, pool, key string, op mvm.Op) (mvm.Instance, error) {
	var i mvm.Instance
	t, err := tx.Tenant(tenant)
	if err != nil {
		return i, err
	}
	p, err := tx.Pool(tenant, pool)
	if err != nil {
		return i, err
	}
	if p.Destroying {
		return i, mvm.Errorf(mvm.KindState, "create instance in %s: the pool is being destroyed", p.Address())
	}
	if len(p.Builds) == 0 {
		return i, mvm.Errorf(mvm.KindState, "create instance in %s: the pool has no image", p.Address()).
			WithFix("run `mvm pool build %s`", p.Address())
	}
	if err := admitInstance(tx, t, p); err != nil {
		return i, err
	}
	id, err := a.newID("i-", func(id string) (bool, error) {
		_, err := tx.Instance(id)
		if mvm.IsKind(err, mvm.KindNotFound) {
			return false, nil
		}
		return true, err
	})
	if err != nil {
		return i, err
	}
	i = mvm.Instance{ID: id, Tenant: tenant, Pool: pool, Key: key, Role: p.Spec.Role, State: mvm.StateCreated,
		Res: p.Spec.Resources, Image: p.Builds[0].Digest, BuildID: p.Builds[0].ID, Created: op.Started, Changed: op.Started, Op: &op}
	if i.Offset, err = tx.FreeOffset(tenant); err != nil {
		return i, err
	}
	ip, ok := mvm.SubnetAddr(t.Subnet, i.Offset)
	if !ok {
		return i, mvm.Errorf(mvm.KindQuota, "create instance in %s: subnet %s is full", p.Address(), t.Subnet)
	}
	i.IP, i.MAC = ip, mvm.MAC(t.NetID, i.Offset).String()
	if i.UID, err = tx.AllocUID(); err != nil {
		return i, err
	}
	if err := tx.PutInstance(i); err != nil {
		return i, err
	}
	_, err = tx.AppendEvent(mvm.Event{Time: op.Started, Action: mvm.InstanceCreated, Tenant: tenant, Pool: pool, Instance: i.ID, By: op.By, Why: op.Why, Request: op.Request})
	return i, err
}

// Instances implements api.Service.
func (a *Agent) Instances(_ context.Context, f mvm.Address) (out []mvm.Instance, err error) {
	err = a.store.View(func(tx *store.Tx) error {
		if f.Instance != "" || f.Key != "" {
			i, err := resolve(tx, f)
			out = []mvm.Instance{i}
			return err
		}
		if f.Pool != "" {
			if _, err := tx.Pool(f.Tenant, f.Pool); err != nil {
				return err
			}
		} else if f.Tenant != "" {
			if _, err := tx.Tenant(f.Tenant); err != nil {
				return err
			}
		}
		out, err = tx.Instances(f.Tenant, f.Pool)
		return err
	})
	if err != nil {
		return nil, err
	}
	for n := range out {
		a.observed(&out[n])
	}
	return out, nil
}

// Instance implements api.Service.
func (a *Agent) Instance(_ context.Context, addr mvm.Address) (i mvm.Instance, err error) {
	err = a.store.View(func(tx *store.Tx) error {
		i, err = resolve(tx, addr)
		return err
	})
	a.observed(&i)
	return i, err
}

// resolve finds the one instance that an address names. A pool's or tenant's
// address names its instance when it has only one.
func resolve(tx *store.Tx, addr mvm.Address) (mvm.Instance, error) {
	switch {
	case addr.Key != "":
		return tx.InstanceByKey(addr.Tenant, addr.Pool, addr.Key)
	case addr.Instance != "":
		i, err := tx.Instance(addr.Instance)
		if err == nil && (addr.Tenant != "" && addr.Tenant != i.Tenant || addr.Pool != "" && addr.Pool != i.Pool) {
			err = mvm.Errorf(mvm.KindNotFound, "instance %s does not exist", addr)
		}
		return i, err
	}
	if _, err := tx.Tenant(addr.Tenant); err != nil {
		return mvm.Instance{}, err
	}
	all, err := tx.Instances(addr.Tenant, addr.Pool)
	switch {
	case err != nil:
		return mvm.Instance{}, err
	case len(all) == 1:
		return all[0], nil
	case len(all) == 0:
		return mvm.Instance{}, mvm.Errorf(mvm.KindNotFound, "%s has no instance", addr)
	}
	return mvm.Instance{}, mvm.Errorf(mvm.KindInvalid, "%s has %d instances", addr, len(all)).WithFix("name one; see `mvm ps %s`", addr)
}

// Operate implements api.Service.
func (a *Agent) Operate(ctx context.Context, addr mvm.Address, req mvm.OpRequest, progress func(mvm.Progress)) (mvm.Instance, error) {
	i, err := a.Instance(ctx, addr)
	if err != nil {
		return i, err
	}
	if req.Op == mvm.OpRestore {
		return i, mvm.Errorf(mvm.KindInvalid, "restore %s: no snapshot id was given", i.Address()).WithFix("see `mvm instance snapshots restore --help`")
	}
	if req.Awake && !i.State.HoldsMemory() && i.Op == nil {
		return i, nil
	}
	by := mvm.AskerFrom(ctx)
	if by.Kind.Person() && req.Op != mvm.OpDestroy {
		if err := a.override(i.ID); err != nil {
			return i, err
		}
		a.reconciler.Operated(i.Tenant) // who waits for the pool is told now, not at the next pass
	}
	return a.submit(ctx, i.ID, request{op: req.Op, by: by, why: req.Why, force: req.Force, awake: req.Awake}, progress)
}

// makeExt4 makes an empty ext4 file system in a sparse file with mkfs.ext4, which gets
// the file open.
func makeExt4(ctx context.Context, f *os.File, mib int) error {
	if err := f.Truncate(int64(mib) << 20); err != nil {
		return mvm.Errorf(mvm.KindInternal, "size data disk: %w", err)
	}
	cmd := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", "-L", "mvm-data",
		"-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "/proc/self/fd/3", strconv.Itoa(mib)+"M")
	cmd.ExtraFiles = []*os.File{f} // number 3
	if out, err := cmd.CombinedOutput(); err != nil {
		return mvm.Errorf(mvm.KindInternal, "mkfs.ext4 on data disk: %w: %s", err, display.Clip(string(out))).
			WithFix("install e2fsprogs; check the space left with `mvm node disk`")
	}
	return nil
}
