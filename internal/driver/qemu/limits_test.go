package qemu_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/drivertest"
	"mvm/internal/limits"
	"mvm/internal/testenv"
)

// Limits are in force from the start on, change while the guest runs, and are in force after
// a wake; a snapshot knows nothing of them.
func TestLimits(t *testing.T) {
	for name, split := range map[string]bool{"root": false, "hostd": true} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.hostd = split
			d, spec := h.driver(t), h.spec(t, "i-0000d100")
			disk := filepath.Join(spec.Dir, "data")
			must(t, os.WriteFile(disk, nil, 0o600))
			must(t, os.Truncate(disk, 64<<20))
			spec.Disks = []driver.Disk{{Path: disk, Serial: "mvm-x-data"}}
			spec.Limits = limits.Of(mvm.Limits{CPUPercent: 140, CPUWeight: 30, DiskWriteKiBPerSecond: 256}, spec.VCPUs)
			v := start(t, d, spec)
			ping(t, v)
			wantCPU(t, v, 140, 30)
			wantSlowWrites(t, v, 256<<10)

			l := limits.Of(mvm.Limits{CPUPercent: 4}, spec.VCPUs)
			must(t, v.(driver.Limiter).Limit(t.Context(), l))
			wantCPU(t, v, 4, 100)
			wantThrottled(t, v)
			l.CPUPercent, l.DiskWriteKiBPerSecond = 150, 512
			must(t, v.(driver.Limiter).Limit(t.Context(), l))
			wantSlowWrites(t, v, 512<<10)

			must(t, v.Pause(t.Context()))
			snap := drivertest.Snapshot(t, spec)
			must(t, v.Snapshot(t.Context(), snap))
			must(t, v.Kill(t.Context()))
			must(t, v.Close())
			spec.Limits = limits.Of(mvm.Limits{CPUWeight: 50, DiskWriteKiBPerSecond: 256}, spec.VCPUs)
			v, err := d.Restore(t.Context(), spec, snap)
			must(t, err)
			defer v.Close()
			must(t, v.Resume(t.Context()))
			wantCPU(t, v, 150, 50)
			wantSlowWrites(t, v, 256<<10)
		})
	}
}

// wantCPU looks at the cgroup of the VMM, in the form of its version.
func wantCPU(t *testing.T, v driver.VMM, percent, weight int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", v.PID()))
	must(t, err)
	got := ""
	for line := range strings.Lines(string(b)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for _, root := range []string{"/sys/fs/cgroup/" + part[1], "/sys/fs/cgroup"} {
			quota, err := os.ReadFile(filepath.Join(root, part[2], "cpu.cfs_quota_us"))
			shares, err2 := os.ReadFile(filepath.Join(root, part[2], "cpu.shares"))
			if err == nil && err2 == nil {
				got = strings.TrimSpace(string(quota)) + " " + strings.TrimSpace(string(shares))
			}
		}
	}
	if want := fmt.Sprintf("%d %d", percent*1000, weight*1024/100); got != want {
		t.Errorf("quota and shares of the VMM's cgroup are %q, want %q", got, want)
	}
}

// wantSlowWrites has the guest write some seconds' worth of its limit past its page cache. It
// may take longer; how the machine is loaded does not make it quicker. What the guest waited
// for is counted.
//
// A request passes at once and is paid for by the next: QEMU merges what a guest has queued, so
// the last one can be most of it. One more write has to wait until that is paid.
func wantSlowWrites(t *testing.T, v driver.VMM, perSecond int) {
	t.Helper()
	const seconds = 30
	before, err := v.Stats(t.Context())
	must(t, err)
	begun := time.Now()
	run(t, v, "dd", "if=/dev/zero", "of=/dev/vda", "bs=64k", "conv=fsync", "count="+strconv.Itoa(seconds*perSecond>>16))
	run(t, v, "dd", "if=/dev/zero", "of=/dev/vda", "bs=64k", "conv=fsync", "count=1")
	took := time.Since(begun)
	after, err := v.Stats(t.Context())
	must(t, err)
	wrote := after.DiskWrit - before.DiskWrit
	t.Logf("wrote %d KiB in %v: %d KiB/s, limit %d KiB/s; waited %v", wrote>>10, took.Round(time.Millisecond), int(float64(wrote)/1024/took.Seconds()), perSecond>>10, after.DiskWait-before.DiskWait)
	if wrote < int64(seconds*perSecond) || float64(wrote)/took.Seconds() > 1.2*float64(perSecond) {
		t.Errorf("the guest wrote %d bytes in %v, want at most %d a second", wrote, took, perSecond)
	}
	if after.DiskWait <= before.DiskWait {
		t.Error("its wait is not counted")
	}
}

// wantThrottled has the guest compute until it is counted that it had less CPU time than it
// wanted. Its limit has to be less than any loaded machine leaves it.
func wantThrottled(t *testing.T, v driver.VMM) {
	t.Helper()
	before, err := v.Stats(t.Context())
	must(t, err)
	testenv.Eventually(t, patience, func() error {
		run(t, v, "sh", "-c", "i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done")
		after, err := v.Stats(t.Context())
		if err == nil && after.Throttled <= before.Throttled {
			err = errors.New("nothing is counted")
		}
		return err
	})
}
