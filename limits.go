package mvm

// Limits bound what one instance takes from its host beside memory; 0: the default. Package
// limits has defaults and bounds.
type Limits struct {
	CPUPercent int `json:"cpu_percent,omitempty"` // of one of the host's CPUs
	// CPUWeight is the share of CPU time when all CPUs are busy, relative to other instances.
	CPUWeight             int `json:"cpu_weight,omitempty"`
	DiskReadKiBPerSecond  int `json:"disk_read_kib_per_second,omitempty"` // of each disk, as are the next three
	DiskWriteKiBPerSecond int `json:"disk_write_kib_per_second,omitempty"`
	DiskReadsPerSecond    int `json:"disk_reads_per_second,omitempty"`
	DiskWritesPerSecond   int `json:"disk_writes_per_second,omitempty"`
}
