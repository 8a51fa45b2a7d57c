package wire

import (
	"time"

	"mvm"
)

// PoolUpdate is mvm.PoolUpdate on the wire.
type PoolUpdate struct {
	Spec  *PoolSpec `json:"spec,omitempty"`
	If    *PoolSpec `json:"if,omitempty"`
	Force bool      `json:"force,omitempty"`
}

// Of returns the noun on the wire.
func (PoolUpdate) Of(n mvm.PoolUpdate) PoolUpdate {
	return PoolUpdate{
		Spec: one(n.Spec, PoolSpec{}.Of), If: one(n.If, PoolSpec{}.Of), Force: n.Force,
	}
}

// Noun returns the noun.
func (w PoolUpdate) Noun() mvm.PoolUpdate {
	return mvm.PoolUpdate{
		Spec: one(w.Spec, PoolSpec.Noun), If: one(w.If, PoolSpec.Noun), Force: w.Force,
	}
}

// TenantUpdate is mvm.TenantUpdate on the wire.
type TenantUpdate struct {
	Quota        *Quota    `json:"quota,omitempty"`
	Ceilings     *Limits   `json:"ceilings,omitempty"`
	Pinned       *bool     `json:"pinned,omitempty"`
	HostServices *[]int    `json:"host_services,omitempty"`
	Closed       *bool     `json:"closed,omitempty"`
	If           *TenantIf `json:"if,omitempty"`
}

// Of returns the noun on the wire.
func (TenantUpdate) Of(n mvm.TenantUpdate) TenantUpdate {
	return TenantUpdate{
		Quota: one(n.Quota, Quota{}.Of), Ceilings: one(n.Ceilings, Limits{}.Of), Pinned: n.Pinned, HostServices: n.HostServices, Closed: n.Closed, If: one(n.If, TenantIf{}.Of),
	}
}

// Noun returns the noun.
func (w TenantUpdate) Noun() mvm.TenantUpdate {
	return mvm.TenantUpdate{
		Quota: one(w.Quota, Quota.Noun), Ceilings: one(w.Ceilings, Limits.Noun), Pinned: w.Pinned, HostServices: w.HostServices, Closed: w.Closed, If: one(w.If, TenantIf.Noun),
	}
}

// TenantIf is mvm.TenantIf on the wire.
type TenantIf struct {
	Quota        *Quota  `json:"quota,omitempty"`
	Ceilings     *Limits `json:"ceilings,omitempty"`
	Pinned       *bool   `json:"pinned,omitempty"`
	HostServices *[]int  `json:"host_services,omitempty"`
}

// Of returns the noun on the wire.
func (TenantIf) Of(n mvm.TenantIf) TenantIf {
	return TenantIf{
		Quota: one(n.Quota, Quota{}.Of), Ceilings: one(n.Ceilings, Limits{}.Of), Pinned: n.Pinned, HostServices: n.HostServices,
	}
}

// Noun returns the noun.
func (w TenantIf) Noun() mvm.TenantIf {
	return mvm.TenantIf{
		Quota: one(w.Quota, Quota.Noun), Ceilings: one(w.Ceilings, Limits.Noun), Pinned: w.Pinned, HostServices: w.HostServices,
	}
}

// OpRequest is mvm.OpRequest on the wire.
type OpRequest struct {
	Op    mvm.OpKind `json:"op"`
	Force bool       `json:"force,omitempty"`
	Why   string     `json:"why,omitempty"`
	Awake bool       `json:"awake,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (OpRequest) Of(n mvm.OpRequest) OpRequest { return OpRequest(n) }
func (w OpRequest) Noun() mvm.OpRequest        { return mvm.OpRequest(w) }

// ExecSpec is mvm.ExecSpec on the wire.
type ExecSpec struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env,omitempty"`
	Dir  string   `json:"dir,omitempty"`
	User string   `json:"user,omitempty"`
	TTY  bool     `json:"tty,omitempty"`
	Rows uint16   `json:"rows,omitempty"`
	Cols uint16   `json:"cols,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (ExecSpec) Of(n mvm.ExecSpec) ExecSpec { return ExecSpec(n) }
func (w ExecSpec) Noun() mvm.ExecSpec       { return mvm.ExecSpec(w) }

// CopySpec is mvm.CopySpec on the wire.
type CopySpec struct {
	Path   string `json:"path"`
	In     bool   `json:"in,omitempty"`
	Name   string `json:"name,omitempty"`
	Follow bool   `json:"follow,omitempty"`
	Owners bool   `json:"owners,omitempty"`
	User   string `json:"user,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (CopySpec) Of(n mvm.CopySpec) CopySpec { return CopySpec(n) }
func (w CopySpec) Noun() mvm.CopySpec       { return mvm.CopySpec(w) }

// LogLine is mvm.LogLine on the wire.
type LogLine struct {
	Time    time.Time `json:"time"`
	Service string    `json:"service"`
	Stream  string    `json:"stream"`
	Text    string    `json:"text"`
}

// Of returns the noun on the wire, and Noun the noun.
func (LogLine) Of(n mvm.LogLine) LogLine { return LogLine(n) }
func (w LogLine) Noun() mvm.LogLine      { return mvm.LogLine(w) }

// InstanceStats is mvm.InstanceStats on the wire.
type InstanceStats struct {
	ID            string             `json:"id"`
	State         mvm.State          `json:"state"`
	PID           int                `json:"pid,omitempty"`
	CPU           time.Duration      `json:"cpu_ns"`
	CPUThrottled  time.Duration      `json:"cpu_throttled_ns,omitempty"`
	DiskWait      time.Duration      `json:"disk_wait_ns,omitempty"`
	DroppedFrames uint64             `json:"dropped_frames,omitempty"`
	RSSBytes      int64              `json:"rss_bytes"`
	RxBytes       int64              `json:"rx_bytes"`
	TxBytes       int64              `json:"tx_bytes"`
	DiskBytes     int64              `json:"disk_bytes"`
	SleeperBytes  int64              `json:"sleeper_bytes"`
	ReadyBytes    int64              `json:"ready_bytes,omitempty"`
	Connections   int                `json:"connections"`
	LastActive    time.Time          `json:"last_active,omitzero"`
	Idle          *IdleStatus        `json:"idle,omitempty"`
	Integrations  []IntegrationState `json:"integrations,omitempty"`
}

// Of returns the noun on the wire.
func (InstanceStats) Of(n mvm.InstanceStats) InstanceStats {
	return InstanceStats{
		ID: n.ID, State: n.State, PID: n.PID, CPU: n.CPU, CPUThrottled: n.CPUThrottled, DiskWait: n.DiskWait, DroppedFrames: n.DroppedFrames, RSSBytes: n.RSSBytes, RxBytes: n.RxBytes, TxBytes: n.TxBytes, DiskBytes: n.DiskBytes,
		SleeperBytes: n.SleeperBytes, ReadyBytes: n.ReadyBytes, Connections: n.Connections, LastActive: n.LastActive, Idle: one(n.Idle, IdleStatus{}.Of),
		Integrations: each(n.Integrations, IntegrationState{}.Of),
	}
}

// Noun returns the noun.
func (w InstanceStats) Noun() mvm.InstanceStats {
	return mvm.InstanceStats{
		ID: w.ID, State: w.State, PID: w.PID, CPU: w.CPU, CPUThrottled: w.CPUThrottled, DiskWait: w.DiskWait, DroppedFrames: w.DroppedFrames, RSSBytes: w.RSSBytes, RxBytes: w.RxBytes, TxBytes: w.TxBytes, DiskBytes: w.DiskBytes,
		SleeperBytes: w.SleeperBytes, ReadyBytes: w.ReadyBytes, Connections: w.Connections, LastActive: w.LastActive, Idle: one(w.Idle, IdleStatus.Noun),
		Integrations: each(w.Integrations, IntegrationState.Noun),
	}
}

// InstanceUsage is mvm.InstanceUsage on the wire.
type InstanceUsage struct {
	ID          string        `json:"id"`
	Tenant      string        `json:"tenant"`
	Pool        string        `json:"pool"`
	Key         string        `json:"key,omitempty"`
	State       mvm.State     `json:"state"`
	VCPUs       int           `json:"vcpus"`
	MemMiB      int           `json:"mem_mib"`
	Measured    time.Time     `json:"measured"`
	CPU         time.Duration `json:"cpu_ns"`
	RSSBytes    int64         `json:"rss_bytes"`
	RxBytes     int64         `json:"rx_bytes"`
	TxBytes     int64         `json:"tx_bytes"`
	DiskRead    int64         `json:"disk_read_bytes"`
	DiskWritten int64         `json:"disk_written_bytes"`
	Connections int           `json:"connections"`
	Error       string        `json:"error,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (InstanceUsage) Of(n mvm.InstanceUsage) InstanceUsage { return InstanceUsage(n) }
func (w InstanceUsage) Noun() mvm.InstanceUsage            { return mvm.InstanceUsage(w) }

// NodeInfo is mvm.NodeInfo on the wire.
type NodeInfo struct {
	NodeID      string     `json:"node_id"`
	Version     string     `json:"version"`
	PID         int        `json:"pid"`
	Started     time.Time  `json:"started"`
	DataDir     string     `json:"data_dir"`
	APIAddress  string     `json:"api_address,omitempty"`
	Driver      string     `json:"driver"`
	VMM         string     `json:"vmm"`
	Accelerator string     `json:"accelerator"`
	Why         string     `json:"why"`
	Missing     []Finding  `json:"missing_walls,omitempty"`
	CPUs        int        `json:"cpus"`
	MemMiB      int        `json:"mem_mib"`
	Held        *HeldState `json:"held,omitempty"`
}

// Of returns the noun on the wire.
func (NodeInfo) Of(n mvm.NodeInfo) NodeInfo {
	return NodeInfo{
		NodeID: n.NodeID, Version: n.Version, PID: n.PID, Started: n.Started, DataDir: n.DataDir, APIAddress: n.APIAddress, Driver: n.Driver,
		VMM: n.VMM, Accelerator: n.Accelerator, Why: n.Why, Missing: each(n.Missing, Finding{}.Of), CPUs: n.CPUs, MemMiB: n.MemMiB, Held: one(n.Held, HeldState{}.Of),
	}
}

// Noun returns the noun.
func (w NodeInfo) Noun() mvm.NodeInfo {
	return mvm.NodeInfo{
		NodeID: w.NodeID, Version: w.Version, PID: w.PID, Started: w.Started, DataDir: w.DataDir, APIAddress: w.APIAddress, Driver: w.Driver,
		VMM: w.VMM, Accelerator: w.Accelerator, Why: w.Why, Missing: each(w.Missing, Finding.Noun), CPUs: w.CPUs, MemMiB: w.MemMiB, Held: one(w.Held, HeldState.Noun),
	}
}

// HeldState is mvm.HeldState on the wire.
type HeldState struct {
	Digest string    `json:"digest"`
	By     mvm.Asker `json:"by"`
	At     time.Time `json:"at"`
	Signed bool      `json:"signed,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (HeldState) Of(n mvm.HeldState) HeldState { return HeldState(n) }
func (w HeldState) Noun() mvm.HeldState        { return mvm.HeldState(w) }

// NodeStats is mvm.NodeStats on the wire.
type NodeStats struct {
	Instances  map[mvm.State]int `json:"instances"`
	Tenants    int               `json:"tenants"`
	FreeMemMiB int               `json:"free_mem_mib"`
	Goroutines int               `json:"goroutines"`
	OpenFiles  int               `json:"open_files"`
	AgentRSS   int64             `json:"agent_rss_bytes"`
	AgentHeap  int64             `json:"agent_heap_bytes"`
	Ready      int               `json:"ready"`
	ReadyBytes int64             `json:"ready_bytes"`
}

// Of returns the noun on the wire, and Noun the noun.
func (NodeStats) Of(n mvm.NodeStats) NodeStats { return NodeStats(n) }
func (w NodeStats) Noun() mvm.NodeStats        { return mvm.NodeStats(w) }

// NodeDisk is mvm.NodeDisk on the wire.
type NodeDisk struct {
	Images    int64 `json:"images_bytes"`
	Sleepers  int64 `json:"sleepers_bytes"`
	DataDisks int64 `json:"data_disks_bytes"`
	SetAside  int64 `json:"set_aside_bytes"`
	Logs      int64 `json:"logs_bytes"`
	Other     int64 `json:"other_bytes"`
	Free      int64 `json:"free_bytes"`
}

// Of returns the noun on the wire, and Noun the noun.
func (NodeDisk) Of(n mvm.NodeDisk) NodeDisk { return NodeDisk(n) }
func (w NodeDisk) Noun() mvm.NodeDisk       { return mvm.NodeDisk(w) }

// NodeCheck is mvm.NodeCheck on the wire.
type NodeCheck struct {
	Repair   bool `json:"repair,omitempty"`
	ReadData bool `json:"read_data,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (NodeCheck) Of(n mvm.NodeCheck) NodeCheck { return NodeCheck(n) }
func (w NodeCheck) Noun() mvm.NodeCheck        { return mvm.NodeCheck(w) }

// Finding is mvm.Finding on the wire.
type Finding struct {
	Severity string `json:"severity"`
	What     string `json:"what"`
	Where    string `json:"where,omitempty"`
	Fix      string `json:"fix,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (Finding) Of(n mvm.Finding) Finding { return Finding(n) }
func (w Finding) Noun() mvm.Finding      { return mvm.Finding(w) }
