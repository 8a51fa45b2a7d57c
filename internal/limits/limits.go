// Package limits has what a pool's limits mean: their names, defaults and bounds, and which
// of them are in force for an instance. It is pure.
package limits

import (
	"slices"
	"strconv"
	"strings"

	"mvm"
)

// Setting is one of the limits.
type Setting struct {
	Name string // as in manifests and JSON
	Help string // for people, without a full stop
	Max  int    // the lowest is 1
	At   func(*mvm.Limits) *int
	// Default is the value of an instance with so many vCPUs whose pool does not set it.
	Default func(vcpus int) int
}

// The defaults. They keep a host usable beside one instance that takes all it may, and no
// usual workload notices them.
const (
	spareCPU        = 50        // percent of a CPU beside the vCPUs: TCG and disks compute too
	weightOfCPU     = 100       // for each vCPU, what Linux gives a cgroup
	diskReadKiB     = 256 << 10 // a cold boot reads a whole image
	diskWriteKiB    = 128 << 10
	diskReads       = 10_000
	diskWrites      = 5_000
	maxWeight       = 10_000  // of Linux
	maxKiBPerSecond = 1 << 30 // a TiB: no disk or network is faster
	maxOpsPerSecond = 1 << 30
)

// Settings are all limits, in the order in which they are shown.
func Settings() []Setting {
	fixed := func(n int) func(int) int { return func(int) int { return n } }
	return []Setting{
		{"cpu_percent", "highest CPU use, in percent of one host CPU (default: 100 for each vCPU, and 50)", 100*mvm.MaxVCPUs + spareCPU,
			func(l *mvm.Limits) *int { return &l.CPUPercent }, func(vcpus int) int { return 100*vcpus + spareCPU }},
		{"cpu_weight", "share of CPU time when all CPUs are busy (default: 100 for each vCPU)", maxWeight,
			func(l *mvm.Limits) *int { return &l.CPUWeight }, func(vcpus int) int { return weightOfCPU * vcpus }},
		{"disk_read_kib_per_second", "KiB that each disk reads per second", maxKiBPerSecond,
			func(l *mvm.Limits) *int { return &l.DiskReadKiBPerSecond }, fixed(diskReadKiB)},
		{"disk_write_kib_per_second", "KiB that each disk writes per second", maxKiBPerSecond,
			func(l *mvm.Limits) *int { return &l.DiskWriteKiBPerSecond }, fixed(diskWriteKiB)},
		{"disk_reads_per_second", "read requests of each disk per second", maxOpsPerSecond,
			func(l *mvm.Limits) *int { return &l.DiskReadsPerSecond }, fixed(diskReads)},
		{"disk_writes_per_second", "write requests of each disk per second", maxOpsPerSecond,
			func(l *mvm.Limits) *int { return &l.DiskWritesPerSecond }, fixed(diskWrites)},
	}
}

// Of returns the limits in force for an instance with so many vCPUs: no field is 0.
func Of(l mvm.Limits, vcpus int) mvm.Limits {
	for _, s := range Settings() {
		if at := s.At(&l); *at == 0 {
			*at = s.Default(vcpus)
		}
	}
	return l
}

// Check says what is wrong with the limits. KindInvalid.
func Check(l mvm.Limits) error {
	for _, s := range Settings() {
		if n := *s.At(&l); n < 0 || n > s.Max {
			return mvm.Errorf(mvm.KindInvalid, "limit %s %d is not in 1..%d, or 0 for the default", s.Name, n, s.Max)
		}
	}
	return nil
}

// CheckPool is Check for the limits of a pool.
func CheckPool(s mvm.PoolSpec) error {
	if err := Check(s.Limits); err != nil {
		return mvm.Errorf(mvm.KindInvalid, "pool %s: %w", s.ID, err)
	}
	return nil
}

// Set reads NAME=NUMBER or NAME=default into the limits. KindInvalid.
func Set(l *mvm.Limits, text string) error {
	name, value, ok := strings.Cut(text, "=")
	all := Settings()
	n := slices.IndexFunc(all, func(s Setting) bool { return s.Name == name })
	if !ok || n < 0 {
		return mvm.Errorf(mvm.KindInvalid, "limit %.60q is not NAME=NUMBER", text).WithFix("use one of %s", strings.Join(Names(), ", "))
	}
	if value == "default" {
		*all[n].At(l) = 0
		return nil
	}
	num, err := strconv.Atoi(value)
	if err != nil || num < 1 || num > all[n].Max {
		return mvm.Errorf(mvm.KindInvalid, "limit %s: %.30q is not a number in 1..%d", name, value, all[n].Max).WithFix("use %s=default for the default", name)
	}
	*all[n].At(l) = num
	return nil
}

// Names are those of all settings.
func Names() (out []string) {
	for _, s := range Settings() {
		out = append(out, s.Name)
	}
	return out
}
