package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"mvm"
)

// policyFlags are the times and thresholds of a pool.
func (o *poolFlags) policyFlags(cmd *cobra.Command) {
	pol := mvm.DefaultRuntimePolicy()
	o.num(cmd, &o.minRunning, "min-running-seconds", pol.MinRunningSeconds, "before it may be warmed or stopped automatically", func(s *mvm.PoolSpec, n int) { s.Policy.MinRunningSeconds = n })
	o.num(cmd, &o.minWarm, "min-warm-seconds", pol.MinWarmSeconds, "before it may be put to sleep automatically", func(s *mvm.PoolSpec, n int) { s.Policy.MinWarmSeconds = n })
	o.num(cmd, &o.drain, "drain-timeout-seconds", pol.DrainTimeoutSeconds, "for the workload to get ready to sleep", func(s *mvm.PoolSpec, n int) { s.Policy.DrainTimeoutSeconds = n })
	o.num(cmd, &o.graceful, "graceful-shutdown-seconds", pol.GracefulShutdownSeconds, "for the guest to power off", func(s *mvm.PoolSpec, n int) { s.Policy.GracefulShutdownSeconds = n })
	o.num(cmd, &o.warmAfter, "warm-after-seconds", pol.WarmAfterSeconds, "of idleness; 0: never", func(s *mvm.PoolSpec, n int) { s.Policy.WarmAfterSeconds = n })
	o.num(cmd, &o.sleepAfter, "sleep-after-seconds", pol.SleepAfterSeconds, "of idleness; 0: never", func(s *mvm.PoolSpec, n int) { s.Policy.SleepAfterSeconds = n })
	o.num(cmd, &o.idleCPU, "idle-cpu-percent", pol.IdleCPUPercent, "of one CPU of the host, that an idle instance uses at most", func(s *mvm.PoolSpec, n int) { s.Policy.IdleCPUPercent = n })
	o.num(cmd, &o.idleBytes, "idle-bytes-per-minute", pol.IdleBytesPerMinute, "that an idle instance moves at most, in and out", func(s *mvm.PoolSpec, n int) { s.Policy.IdleBytesPerMinute = n })
	o.num(cmd, &o.quietConns, "quiet-connection-seconds", 0, "without a byte, after which open connections no longer keep it awake; 0: they always do", func(s *mvm.PoolSpec, n int) { s.Policy.QuietConnectionSeconds = n })
}

// addPolicy shows the times and thresholds.
func (t *table) addPolicy(p mvm.RuntimePolicy) {
	cpu, bytes := p.IdleLimits()
	t.add("warm after", afterText(p.WarmAfterSeconds))
	t.add("sleep after", afterText(p.SleepAfterSeconds))
	idle := fmt.Sprintf("at most %d%% of a CPU and %s a minute, no open connection", cpu, size(int64(bytes)))
	if q := p.QuietConnectionSeconds; q > 0 {
		idle += fmt.Sprintf(" that carried a byte in the last %ds", q)
	}
	t.add("idle is", idle)
	t.add("at least", fmt.Sprintf("%ds running, %ds warm", p.MinRunningSeconds, p.MinWarmSeconds))
	t.add("drain, stop", fmt.Sprintf("within %ds, within %ds", p.DrainTimeoutSeconds, p.GracefulShutdownSeconds))
}

func afterText(seconds int) string {
	if seconds == 0 {
		return "never"
	}
	return fmt.Sprintf("%ds idle", seconds)
}
