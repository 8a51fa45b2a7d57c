package policy

import "fmt"

// Memory is the host's memory.
type Memory struct {
	TotalMiB, AvailableMiB int
	// Stalled is the share of the last 10 s, in percent, in which some task waited for
	// memory (the kernel's pressure stall information); below 0: the kernel does not say.
	Stalled float64
}

// MemoryLimits say when the host has too little memory.
type MemoryLimits struct {
	FreePercent    int // of all memory that is to be available; 0: not looked at
	StalledPercent int // of the time that tasks may wait for memory; 0: not looked at
}

// The limits that hold where the agent's config names none.
const (
	DefaultFreePercent    = 5
	DefaultStalledPercent = 10
)

// stalledFree is the part of all memory, as a divisor, that is freed where tasks wait
// for memory though enough is available.
const stalledFree = 20

// Pressure is how much memory must be freed.
type Pressure struct {
	Bytes int64 // 0: none
	Why   string
}

// Pressure returns how much is to be freed.
func (l MemoryLimits) Pressure(m Memory) Pressure {
	least := m.TotalMiB * l.FreePercent / 100
	if l.FreePercent > 0 && m.AvailableMiB < least {
		return Pressure{Bytes: int64(least-m.AvailableMiB) << 20,
			Why: fmt.Sprintf("memory pressure: %d MiB available, less than %d%% of %d MiB", m.AvailableMiB, l.FreePercent, m.TotalMiB)}
	}
	if l.StalledPercent > 0 && m.Stalled > float64(l.StalledPercent) {
		return Pressure{Bytes: int64(m.TotalMiB) << 20 / stalledFree,
			Why: fmt.Sprintf("memory pressure: tasks waited for memory in %.0f%% of the last 10s", m.Stalled)}
	}
	return Pressure{}
}
