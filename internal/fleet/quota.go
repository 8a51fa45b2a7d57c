package fleet

import (
	"mvm"
	"mvm/internal/quota"
	"mvm/internal/store"
)

// usageOf adds up what counts against a tenant's quota, without the instance skip, of which
// only the disk counts.
func usageOf(tx *store.Tx, tenant, skip string) (mvm.Usage, error) {
	var u mvm.Usage
	pools, err := tx.Pools(tenant)
	if err != nil {
		return u, err
	}
	u.Pools = len(pools)
	instances, err := tx.Instances(tenant, "")
	if err != nil {
		return u, err
	}
	for _, i := range instances {
		c := quota.Of(i)
		if i.ID == skip {
			c = quota.Claim{}
		}
		quota.Add(&u, i.Res, c)
	}
	return u, nil
}

// over is the error of a change that would pass the limit; nil where there is none.
func over(tenant string, l *quota.Limit) error {
	if l == nil {
		return nil
	}
	return mvm.Errorf(mvm.KindQuota, "tenant %s: %s is %d and this would make it %d", tenant, l.Name, l.Max, l.Would).
		WithFix("raise the quota with `mvm tenant update`, or stop or destroy instances")
}

// beside returns the tenant and what it uses without the instance skip.
func beside(tx *store.Tx, tenant, skip string) (mvm.Tenant, mvm.Usage, error) {
	t, err := tx.Tenant(tenant)
	if err != nil {
		return t, mvm.Usage{}, err
	}
	u, err := usageOf(tx, tenant, skip)
	return t, u, err
}

// AdmitRunning refuses when the instance's running would pass the quota.
func (*Fleet) AdmitRunning(tx *store.Tx, i mvm.Instance) error {
	t, u, err := beside(tx, i.Tenant, i.ID)
	if err != nil {
		return err
	}
	return over(t.ID, quota.Run(t.Quota, u, i.Res))
}

// AdmitWarm refuses when the instance's pausing would pass the quota.
func (*Fleet) AdmitWarm(tx *store.Tx, i mvm.Instance) error {
	t, u, err := beside(tx, i.Tenant, i.ID)
	if err != nil {
		return err
	}
	return over(t.ID, quota.Warm(t.Quota, u))
}

// admitInstance refuses when one more instance of the pool would pass the quota.
func admitInstance(tx *store.Tx, t mvm.Tenant, p mvm.Pool) error {
	have, err := tx.Instances(t.ID, p.Spec.ID)
	if err != nil {
		return err
	}
	u, err := usageOf(tx, t.ID, "")
	if err != nil {
		return err
	}
	return over(t.ID, quota.New(t.Quota, u, len(have), p.Spec.Resources))
}

// AdmitDisk refuses a data disk that grows beyond the quota.
func (*Fleet) AdmitDisk(tx *store.Tx, was, now mvm.Instance) error {
	if now.Res.DataDiskMiB <= was.Res.DataDiskMiB {
		return nil
	}
	t, u, err := beside(tx, was.Tenant, "")
	if err != nil {
		return err
	}
	is := u
	is.DiskMiB += now.Res.DataDiskMiB - was.Res.DataDiskMiB
	return over(t.ID, quota.Change(t.Quota, u, is))
}
