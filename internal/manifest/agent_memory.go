package manifest

import "strconv"

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
