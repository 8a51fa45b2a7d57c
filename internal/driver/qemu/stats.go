package qemu

import (
	"context"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/rundir"
)

// Stats measures the process, the TAP and the disks. What can't be measured is 0.
func (v *vmm) Stats(ctx context.Context) (driver.Stats, error) {
	select {
	case <-v.done:
		return driver.Stats{}, mvm.Errorf(mvm.KindUnavailable, "measure the VMM: %w", errGone)
	default:
	}
	p, err := v.proc.Stats()
	if err != nil {
		return driver.Stats{}, mvm.Errorf(mvm.KindUnavailable, "measure the VMM: %w", err)
	}
	v.trim(ctx, p.RSS)
	s := driver.Stats{CPU: p.CPU, RSSBytes: p.RSS, Throttled: p.Throttled}
	s.RxBytes, s.TxBytes = rundir.TAPBytes(v.rec.TAP)
	blocks, err := v.blockStats(ctx)
	for _, b := range blocks {
		s.DiskRead += b.Stats.Read
		s.DiskWrit += b.Stats.Written
	}
	return s, err
}

// blockStats is what QEMU counts of one disk since it started.
type blockStats struct {
	Stats struct {
		Read    int64 `json:"rd_bytes"`
		Written int64 `json:"wr_bytes"`
	} `json:"stats"`
}

func (v *vmm) blockStats(ctx context.Context) (blocks []blockStats, err error) {
	err = v.do(ctx, "query-blockstats", nil, &blocks)
	return blocks, err
}
