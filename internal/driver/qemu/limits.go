package qemu

import (
	"context"
	"errors"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/vmproc"
)

var _ driver.Limiter = (*vmm)(nil)

// Limit is described at driver.Limiter.
func (v *vmm) Limit(ctx context.Context, l mvm.Limits) error {
	disks := v.limitDisks(ctx, l)
	// The first error's kind counts: that a host can't limit CPU time hides no other.
	return errors.Join(disks, v.proc.LimitCPU(ctx, vmproc.CPUOf(l)))
}

// Unlimited is described at driver.Limiter.
func (v *vmm) Unlimited() error { return v.unlimited }

// limitStart puts the Spec's limits in force before the vCPUs run for the first time. That
// the CPU time can't be limited keeps no VMM from running: Unlimited tells of it.
func (v *vmm) limitStart(ctx context.Context) error {
	l := v.spec.Limits
	if l == (mvm.Limits{}) {
		return nil
	}
	if cpu := vmproc.CPUOf(l); v.spec.Cgroup != "" && cpu != vmproc.DefaultCPU(v.spec.VCPUs) {
		v.unlimited = v.proc.LimitCPU(ctx, cpu)
	}
	return v.limitDisks(ctx, l)
}

// throttle is what block_set_io_throttle takes; 0 is no bound.
type throttle struct {
	ID    string `json:"id"`
	BPS   int64  `json:"bps"`
	BPSR  int64  `json:"bps_rd"`
	BPSW  int64  `json:"bps_wr"`
	IOPS  int64  `json:"iops"`
	IOPSR int64  `json:"iops_rd"`
	IOPSW int64  `json:"iops_wr"`
}

// limitDisks bounds each disk of the guest. QEMU names its devices itself: of a VMM that an
// older version started nobody else knows the names. Bounds are no part of a device state.
func (v *vmm) limitDisks(ctx context.Context, l mvm.Limits) error {
	var blocks []struct {
		Qdev string `json:"qdev"`
	}
	if err := v.do(ctx, "query-block", nil, &blocks); err != nil {
		return mvm.Explain("limit the disks of the VMM", err)
	}
	for _, b := range blocks {
		t := throttle{ID: b.Qdev, BPSR: int64(l.DiskReadKiBPerSecond) << 10, BPSW: int64(l.DiskWriteKiBPerSecond) << 10,
			IOPSR: int64(l.DiskReadsPerSecond), IOPSW: int64(l.DiskWritesPerSecond)}
		if err := v.do(ctx, "block_set_io_throttle", t, nil); err != nil {
			return mvm.Explain("limit the disks of the VMM", err)
		}
	}
	return nil
}
