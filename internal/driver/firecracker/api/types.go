package api

// MachineConfig is the size of the machine.
type MachineConfig struct {
	VCPUs           int  `json:"vcpu_count"`
	MemMiB          int  `json:"mem_size_mib"`
	SMT             bool `json:"smt"`
	TrackDirtyPages bool `json:"track_dirty_pages"`
}

// BootSource is what the machine boots.
type BootSource struct {
	Kernel string `json:"kernel_image_path"`
	Initrd string `json:"initrd_path,omitempty"`
	Args   string `json:"boot_args,omitempty"`
}

// Drive is a virtio-blk disk. Firecracker sets no serial.
type Drive struct {
	ID       string `json:"drive_id"` // letters, digits, '_'
	Path     string `json:"path_on_host"`
	Root     bool   `json:"is_root_device"`
	ReadOnly bool   `json:"is_read_only"`
	// Cache is Writeback, or Unsafe, which ignores the guest's flushes.
	Cache string `json:"cache_type"`
}

// Writeback is the cache type that passes the guest's flushes on to the host's disk.
const Writeback = "Writeback"

// NetworkInterface is a virtio-net device on a TAP, which Firecracker opens by name.
type NetworkInterface struct {
	ID  string `json:"iface_id"`
	TAP string `json:"host_dev_name"`
	MAC string `json:"guest_mac,omitempty"`
}

// Vsock is the vsock device.
type Vsock struct {
	CID  int    `json:"guest_cid"`
	Path string `json:"uds_path"`
}

// Entropy is the virtio-rng device.
type Entropy struct{}

// Logger says what Firecracker logs, and where: without a path on its output.
type Logger struct {
	Level     string `json:"level"`
	ShowLevel bool   `json:"show_level"`
}

// Metrics says where Firecracker writes what it counts.
type Metrics struct {
	Path string `json:"metrics_path"`
}

// Serial says where the guest's serial port goes.
type Serial struct {
	Path string `json:"serial_out_path"`
}

// Action is one of the actions.
type Action struct {
	Type string `json:"action_type"`
}

// The actions.
const (
	InstanceStart  = "InstanceStart"
	FlushMetrics   = "FlushMetrics"
	SendCtrlAltDel = "SendCtrlAltDel"
)

// VM is the state that the vCPUs are to have.
type VM struct {
	State string `json:"state"`
}

// The states of a VM, and those that Describe gives.
const (
	Paused  = "Paused"
	Resumed = "Resumed"

	NotStarted = "Not started"
	Running    = "Running"
)

// SnapshotCreate has a paused machine written to two files.
type SnapshotCreate struct {
	State  string `json:"snapshot_path"`
	Memory string `json:"mem_file_path"`
	Type   string `json:"snapshot_type"`
}

// The types of a snapshot's memory: Diff has what changed since the snapshot before.
const (
	Full = "Full"
	Diff = "Diff"
)

// SnapshotLoad makes a paused machine of the files.
type SnapshotLoad struct {
	State           string            `json:"snapshot_path"`
	Memory          MemoryBackend     `json:"mem_backend"`
	TrackDirtyPages bool              `json:"track_dirty_pages"`
	Resume          bool              `json:"resume_vm"`
	Networks        []NetworkOverride `json:"network_overrides,omitempty"`
}

// MemoryBackend is a file that is mapped privately.
type MemoryBackend struct {
	Type string `json:"backend_type"`
	Path string `json:"backend_path"`
}

// File is the backend type of a file.
const File = "File"

// NetworkOverride is the TAP that a network interface has from now on.
type NetworkOverride struct {
	ID  string `json:"iface_id"`
	TAP string `json:"host_dev_name"`
}

// Info describes the process.
type Info struct {
	AppName string `json:"app_name"`
	ID      string `json:"id"`
	State   string `json:"state"` // NotStarted, Running or Paused
	Version string `json:"vmm_version"`
}
