package agent

import (
	"mvm"
	"mvm/internal/store"
)

// usageOf adds up what counts against a tenant's quota, without the instance skip.
// An instance that is on its way up counts as running already, and one between running
// and warm as both, since it can be called off.
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
		u.DiskMiB += i.Res.DataDiskMiB
		if i.ID == skip {
			continue
		}
		rising := i.Op != nil && (up(i.Op.Kind) || i.Op.Kind == mvm.OpRestart)
		falling := i.Op != nil && i.Op.Kind == mvm.OpSleep // asleep, and its VMM may be there yet
		if i.State.HoldsMemory() || rising || falling {
			u.VCPUs += i.Res.VCPUs
			u.MemMiB += i.Res.MemMiB
		}
		if i.State == mvm.StateRunning || rising {
			u.Running++
		}
		if i.State == mvm.StateWarm || i.State == mvm.StateRunning && i.Op != nil && i.Op.Kind == mvm.OpWarm {
			u.Warm++
		}
	}
	return u, nil
}

func over(tenant, what string, limit, would int) error {
	return mvm.Errorf(mvm.KindQuota, "tenant %s: %s is %d and this would make it %d", tenant, what, limit, would).
		WithFix("raise it with `mvm tenant update`, or stop or destroy something")
}

// admitRunning refuses when the instance's running would pass the quota.
func admitRunning(tx *store.Tx, i mvm.Instance) error {
	t, err := tx.Tenant(i.Tenant)
	if err != nil {
		return err
	}
	u, err := usageOf(tx, i.Tenant, i.ID)
	if err != nil {
		return err
	}
	q := t.Quota
	switch {
	case u.Running+1 > q.MaxRunning:
		return over(t.ID, "max_running", q.MaxRunning, u.Running+1)
	case u.VCPUs+i.Res.VCPUs > q.MaxVCPUs:
		return over(t.ID, "max_vcpus", q.MaxVCPUs, u.VCPUs+i.Res.VCPUs)
	case u.MemMiB+i.Res.MemMiB > q.MaxMemMiB:
		return over(t.ID, "max_mem_mib", q.MaxMemMiB, u.MemMiB+i.Res.MemMiB)
	}
	return nil
}

// admitWarm refuses when the instance's pausing would pass the quota.
func admitWarm(tx *store.Tx, i mvm.Instance) error {
	t, err := tx.Tenant(i.Tenant)
	if err != nil {
		return err
	}
	u, err := usageOf(tx, i.Tenant, i.ID)
	if err != nil {
		return err
	}
	if u.Warm+1 > t.Quota.MaxWarm {
		return over(t.ID, "max_warm", t.Quota.MaxWarm, u.Warm+1)
	}
	return nil
}

// admitInstance refuses when one more instance of the pool would pass the quota.
func admitInstance(tx *store.Tx, t mvm.Tenant, p mvm.Pool) error {
	have, err := tx.Instances(t.ID, p.Spec.ID)
	if err != nil {
		return err
	}
	if len(have)+1 > t.Quota.MaxInstancesPerPool {
		return over(t.ID, "max_instances_per_pool", t.Quota.MaxInstancesPerPool, len(have)+1)
	}
	u, err := usageOf(tx, t.ID, "")
	if err != nil {
		return err
	}
	if gib := (u.DiskMiB + p.Spec.Resources.DataDiskMiB + 1023) / 1024; gib > t.Quota.MaxDiskGiB {
		return over(t.ID, "max_disk_gib", t.Quota.MaxDiskGiB, gib)
	}
	return nil
}
