package qemu

import (
	"context"
	"time"

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
	v.log.Trim()
	s := driver.Stats{CPU: p.CPU, RSSBytes: p.RSS, Throttled: p.Throttled}
	s.RxBytes, s.TxBytes = rundir.TAPBytes(v.rec.TAP)
	blocks, err := v.blockStats(ctx)
	for _, b := range blocks {
		s.DiskRead += b.Stats.Read
		s.DiskWrit += b.Stats.Written
		s.DiskWait += time.Duration(b.Stats.ReadTime + b.Stats.WriteTime)
	}
	return s, err
}

// blockStats is what QEMU counts of one disk since it started.
type blockStats struct {
	Stats struct {
		Read    int64 `json:"rd_bytes"`
		Written int64 `json:"wr_bytes"`
		// Times of all requests in ns, the wait for the disk's bounds included.
		ReadTime  int64 `json:"rd_total_time_ns"`
		WriteTime int64 `json:"wr_total_time_ns"`
	} `json:"stats"`
}

func (v *vmm) blockStats(ctx context.Context) (blocks []blockStats, err error) {
	err = v.do(ctx, "query-blockstats", nil, &blocks)
	return blocks, err
}
