package tenants

import (
	"fmt"
	"mvm/internal/cli/command"
	"mvm/internal/limits"

	"github.com/spf13/cobra"

	"mvm"
)

// policyFlags are the times and thresholds of a pool.
func (o *poolFlags) policyFlags(cmd *cobra.Command) {
	pol := mvm.DefaultRuntimePolicy()
	o.num(cmd, &o.minRunning, "min-running-seconds", pol.MinRunningSeconds, "minimum seconds in state running before mvm pauses it or puts it to sleep", func(s *mvm.PoolSpec, n int) { s.Policy.MinRunningSeconds = n })
	o.num(cmd, &o.minWarm, "min-warm-seconds", pol.MinWarmSeconds, "minimum seconds in state warm before mvm puts it to sleep", func(s *mvm.PoolSpec, n int) { s.Policy.MinWarmSeconds = n })
	o.num(cmd, &o.drain, "drain-timeout-seconds", pol.DrainTimeoutSeconds, "seconds for the workload to finish its requests before a sleep or restart", func(s *mvm.PoolSpec, n int) { s.Policy.DrainTimeoutSeconds = n })
	o.num(cmd, &o.graceful, "graceful-shutdown-seconds", pol.GracefulShutdownSeconds, "seconds for the guest to shut down before mvm ends its VMM", func(s *mvm.PoolSpec, n int) { s.Policy.GracefulShutdownSeconds = n })
	o.num(cmd, &o.warmAfter, "warm-after-seconds", pol.WarmAfterSeconds, "idle seconds before an instance is paused; 0: never", func(s *mvm.PoolSpec, n int) { s.Policy.WarmAfterSeconds = n })
	o.num(cmd, &o.sleepAfter, "sleep-after-seconds", pol.SleepAfterSeconds, "idle seconds before an instance is put to sleep; 0: never", func(s *mvm.PoolSpec, n int) { s.Policy.SleepAfterSeconds = n })
	o.num(cmd, &o.idleCPU, "idle-cpu-percent", pol.IdleCPUPercent, "highest CPU use of an idle instance, in percent of one host CPU", func(s *mvm.PoolSpec, n int) { s.Policy.IdleCPUPercent = n })
	o.num(cmd, &o.idleBytes, "idle-bytes-per-minute", pol.IdleBytesPerMinute, "highest network traffic of an idle instance, in and out", func(s *mvm.PoolSpec, n int) { s.Policy.IdleBytesPerMinute = n })
	o.num(cmd, &o.quietConns, "quiet-connection-seconds", 0, "seconds without traffic after which an open connection no longer keeps an instance awake; 0: it always does", func(s *mvm.PoolSpec, n int) { s.Policy.QuietConnectionSeconds = n })
}

// addPolicy shows the times and thresholds.
func addPolicy(t *command.Table, p mvm.RuntimePolicy) {
	cpu, bytes := p.IdleLimits()
	t.Add("warm after", afterText(p.WarmAfterSeconds))
	t.Add("sleep after", afterText(p.SleepAfterSeconds))
	idle := fmt.Sprintf("at most %d%% of a CPU and %s a minute, no open connection", cpu, command.Size(int64(bytes)))
	if q := p.QuietConnectionSeconds; q > 0 {
		idle += fmt.Sprintf(" that carried a byte in the last %ds", q)
	}
	t.Add("idle is", idle)
	t.Add("at least", fmt.Sprintf("%ds running, %ds warm", p.MinRunningSeconds, p.MinWarmSeconds))
	t.Add("drain, stop", fmt.Sprintf("within %ds, within %ds", p.DrainTimeoutSeconds, p.GracefulShutdownSeconds))
}

// addLimits shows the limits that the pool sets, and those that the tenant's ceilings lower.
// An older agent says nothing of what is in force.
func addLimits(t *command.Table, spec mvm.PoolSpec, inForce mvm.Limits) {
	shown, asked := 0, limits.Of(spec.Limits, spec.Resources.VCPUs)
	for _, s := range limits.Settings() {
		set, want, force := *s.At(&spec.Limits), *s.At(&asked), *s.At(&inForce)
		switch {
		case force != 0 && force < want:
			t.Add("limit", fmt.Sprintf("%s %d, the tenant's ceiling, instead of %d", s.Name, force, want))
		case set != 0:
			t.Add("limit", fmt.Sprintf("%s %d", s.Name, set))
		default:
			continue
		}
		shown++
	}
	if shown == 0 {
		t.Add("limits", "default")
	}
}

// addCeilings shows the tenant's ceilings that are not the default.
func addCeilings(t *command.Table, c mvm.Limits) {
	shown, none := 0, limits.None()
	for _, s := range limits.Settings() {
		switch n := *s.At(&c); n {
		case 0:
			continue
		case *s.At(&none):
			t.Add("ceiling", s.Name+" none")
		default:
			t.Add("ceiling", fmt.Sprintf("%s %d", s.Name, n))
		}
		shown++
	}
	if shown == 0 {
		t.Add("ceilings", "default")
	}
}

// setLimit sets a limit, or goes back to its default.
func setLimit(s *mvm.PoolSpec, text string) error { return limits.Set(&s.Limits, text) }

func afterText(seconds int) string {
	if seconds == 0 {
		return "never"
	}
	return fmt.Sprintf("%ds idle", seconds)
}
