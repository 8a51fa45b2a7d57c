package wire

import "mvm"

// Limits is mvm.Limits on the wire.
type Limits struct {
	CPUPercent            int `json:"cpu_percent,omitempty"`
	CPUWeight             int `json:"cpu_weight,omitempty"`
	DiskReadKiBPerSecond  int `json:"disk_read_kib_per_second,omitempty"`
	DiskWriteKiBPerSecond int `json:"disk_write_kib_per_second,omitempty"`
	DiskReadsPerSecond    int `json:"disk_reads_per_second,omitempty"`
	DiskWritesPerSecond   int `json:"disk_writes_per_second,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (Limits) Of(n mvm.Limits) Limits { return Limits(n) }
func (w Limits) Noun() mvm.Limits     { return mvm.Limits(w) }
