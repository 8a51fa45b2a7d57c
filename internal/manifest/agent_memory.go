package manifest

import (
	"strconv"
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
	n := func(key string) int {
		v, _ := strconv.Atoi(l.values[key]) // a bad one is a problem already
		return v
	}
	return MemoryConfig{FreePercent: n("memory_free_percent"), StalledPercent: n("memory_stalled_percent")}
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
	n := func(key string) int {
		v, _ := strconv.Atoi(l.values[key]) // a bad one is a problem already
		return v
	}
	return ReadyConfig{Percent: n("ready_memory_percent"), TenantPercent: n("ready_tenant_percent"),
		Keep: time.Duration(n("ready_minutes")) * time.Minute}
}
