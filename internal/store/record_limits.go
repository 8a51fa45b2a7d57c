package store

import "mvm"

type limitsRecord struct {
	CPUPercent            int `json:"cpu_percent,omitempty"`
	CPUWeight             int `json:"cpu_weight,omitempty"`
	DiskReadKiBPerSecond  int `json:"disk_read_kib_per_second,omitempty"`
	DiskWriteKiBPerSecond int `json:"disk_write_kib_per_second,omitempty"`
	DiskReadsPerSecond    int `json:"disk_reads_per_second,omitempty"`
	DiskWritesPerSecond   int `json:"disk_writes_per_second,omitempty"`
}

func recordOfLimits(v mvm.Limits) limitsRecord { return limitsRecord(v) }

func (r limitsRecord) noun() mvm.Limits { return mvm.Limits(r) }
