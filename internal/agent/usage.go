package agent

import (
	"context"
	"slices"
	"time"

	"mvm/internal/display"
	"mvm/internal/wait"

	"mvm"
)

// Bounds of one look at what all instances use.
const (
	usageAtOnce = 8
	usageWait   = 2 * time.Second // for one VMM
)

// Usage implements api.Service.
func (a *Agent) Usage(ctx context.Context, filter mvm.Address) ([]mvm.InstanceUsage, error) {
	all, err := a.Instances(ctx, filter)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(i mvm.Instance) bool { return !i.State.HoldsMemory() })
	out, places := make([]mvm.InstanceUsage, len(all)), make([]int, len(all))
	for n := range places {
		places[n] = n
	}
	wait.Each(places, usageAtOnce, func(n int) { out[n] = a.usage(ctx, all[n]) })
	return out, ctx.Err()
}

func (a *Agent) usage(ctx context.Context, i mvm.Instance) mvm.InstanceUsage {
	u := mvm.InstanceUsage{ID: i.ID, Tenant: i.Tenant, Pool: i.Pool, Key: i.Key, State: i.State, VCPUs: i.Res.VCPUs, MemMiB: i.Res.MemMiB}
	use := a.ingress.Use(i.ID)
	u.Connections = use.Open
	l := a.live.Of(i.ID)
	if l == nil {
		u.Measured, u.Error = time.Now(), "it has no VMM at the moment"
		return u
	}
	ctx, cancel := context.WithTimeout(ctx, usageWait)
	defer cancel()
	v, err := l.Driver().Stats(ctx)
	u.Measured = time.Now()
	if err != nil {
		u.Error = display.Clip(err.Error())
	}
	u.CPU, u.RSSBytes, u.RxBytes, u.TxBytes, u.DiskRead, u.DiskWritten = v.CPU, v.RSSBytes, v.RxBytes, v.TxBytes, v.DiskRead, v.DiskWrit
	return u
}
