package manifest

import (
	"time"
)

// MemoryConfig says when the host has too little memory, so that idle instances are
// put to sleep before their time.
type MemoryConfig struct {
	FreePercent    int // of all memory that is to be available; 0: not looked at
	StalledPercent int // of the time that tasks may wait for memory; 0: not looked at
}

// memoryKeys are the keys of MemoryConfig.
func memoryKeys() []agentKey {
	return []agentKey{
		{name: "memory_free_percent", value: "5", check: number(0, 90), number: true},
		{name: "memory_stalled_percent", value: "10", check: number(0, 100), number: true},
	}
}

func (l *layers) memory() MemoryConfig {
	return MemoryConfig{FreePercent: l.number("memory_free_percent"), StalledPercent: l.number("memory_stalled_percent")}
}

// ReadyConfig says what memory of sleeping guests is kept in the host's memory.
type ReadyConfig struct {
	Percent       int           // of the host's memory; 0: none
	TenantPercent int           // of that, for one tenant
	Keep          time.Duration // of what nobody uses
}

// readyKeys are the keys of ReadyConfig.
func readyKeys() []agentKey {
	return []agentKey{
		{name: "ready_memory_percent", value: "10", check: number(0, 80), number: true},
		{name: "ready_tenant_percent", value: "50", check: number(1, 100), number: true},
		{name: "ready_minutes", value: "60", check: number(1, 1440), number: true},
	}
}

func (l *layers) ready() ReadyConfig {
	return ReadyConfig{Percent: l.number("ready_memory_percent"), TenantPercent: l.number("ready_tenant_percent"),
		Keep: time.Duration(l.number("ready_minutes")) * time.Minute}
}
