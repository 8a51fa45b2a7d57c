package mvm

import (
	"io"
	"slices"
	"strings"
	"time"
)

// PoolUpdate changes a pool; nil fields stay.
type PoolUpdate struct {
	Spec *PoolSpec `json:"spec,omitempty"` // the whole spec, its ID and Role unchanged
	// If is the spec that Spec was made from: with another nothing changes. nil: whatever
	// is there is replaced.
	If *PoolSpec `json:"if,omitempty"`
	// Force ends the overrides of the pool's instances that a person changed: reconcile
	// does not leave them alone any longer.
	Force bool `json:"force,omitempty"`
}

// Check returns KindState where the pool is no longer what the update is of.
func (u PoolUpdate) Check(have Pool) error {
	if u.If == nil || u.If.Same(have.Spec) {
		return nil
	}
	return Errorf(KindState, "update pool %s: somebody else has changed it in the meantime", have.Address()).WithFix("read it again, and repeat your change")
}

// TenantUpdate changes a tenant; nil fields stay.
type TenantUpdate struct {
	Quota        *Quota  `json:"quota,omitempty"`    // the whole quota
	Ceilings     *Limits `json:"ceilings,omitempty"` // all of them
	Pinned       *bool   `json:"pinned,omitempty"`
	HostServices *[]int  `json:"host_services,omitempty"`
	Closed       *bool   `json:"closed,omitempty"`
	// If is what the update was made from: if the tenant has other values, nothing changes.
	// nil: the update applies to whatever is there.
	If *TenantIf `json:"if,omitempty"`
}

// TenantIf is the precondition of an update; nil fields are not compared.
type TenantIf struct {
	Quota        *Quota  `json:"quota,omitempty"`
	Ceilings     *Limits `json:"ceilings,omitempty"`
	Pinned       *bool   `json:"pinned,omitempty"`
	HostServices *[]int  `json:"host_services,omitempty"`
}

// From makes the update conditional on old: each field that it changes must still have
// the value that it has in old.
func (u TenantUpdate) From(old Tenant) TenantUpdate {
	cond := TenantIf{}
	if u.Quota != nil {
		cond.Quota = &old.Quota
	}
	if u.Ceilings != nil {
		cond.Ceilings = &old.Ceilings
	}
	if u.Pinned != nil {
		cond.Pinned = &old.Pinned
	}
	if u.HostServices != nil {
		ports := slices.Concat([]int{}, old.HostServices)
		cond.HostServices = &ports
	}
	u.If = &cond
	return u
}

// Check returns KindState if the tenant no longer is what the update was made from.
func (u TenantUpdate) Check(have Tenant) error {
	c := u.If
	if c == nil || (c.Quota == nil || *c.Quota == have.Quota) && (c.Ceilings == nil || *c.Ceilings == have.Ceilings) && (c.Pinned == nil || *c.Pinned == have.Pinned) &&
		(c.HostServices == nil || slices.Equal(*c.HostServices, have.HostServices)) {
		return nil
	}
	return Errorf(KindState, "update tenant %s: somebody else has changed it in the meantime", have.ID).WithFix("read it again, and repeat your change")
}

// OpRequest asks for an operation on an instance. Force skips what only protects
// the workload (a drain, a critical integration's veto) and never what protects data.
type OpRequest struct {
	Op    OpKind `json:"op"`
	Force bool   `json:"force,omitempty"`
	Why   string `json:"why,omitempty"`
	// Awake has a restart leave alone what sleeps by the time it is its turn.
	Awake bool `json:"awake,omitempty"`
}

// ExecSpec is a command to run in a guest.
type ExecSpec struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env,omitempty"`
	Dir  string   `json:"dir,omitempty"`
	User string   `json:"user,omitempty"` // default root
	TTY  bool     `json:"tty,omitempty"`
	Rows uint16   `json:"rows,omitempty"`
	Cols uint16   `json:"cols,omitempty"`
}

// CopySpec is a file or folder that is copied to or from a guest.
type CopySpec struct {
	Path string `json:"path"` // in the guest, absolute
	// In: into the guest. Otherwise out of it.
	In bool `json:"in,omitempty"`
	// Name, for In, is that of the source; empty: the contents of a folder go into Path.
	Name string `json:"name,omitempty"`
	// Follow: where Path is a symlink, what it leads to comes out.
	Follow bool `json:"follow,omitempty"`
	// Owners, for In: owners stay, by name or else by number. User owns all of it instead.
	// With neither it is root.
	Owners bool   `json:"owners,omitempty"`
	User   string `json:"user,omitempty"`
}

// Validate checks what a CopySpec says of itself.
func (s CopySpec) Validate() error {
	switch {
	case !strings.HasPrefix(s.Path, "/") || strings.ContainsRune(s.Path, 0) || len(s.Path) > 4096:
		return Errorf(KindInvalid, "%q is not an absolute path", clip(s.Path))
	case s.Name == "." || s.Name == ".." || strings.ContainsAny(s.Name, "/\x00") || len(s.Name) > 255:
		return Errorf(KindInvalid, "%q is not a file name", clip(s.Name))
	case s.User != "" && s.Owners:
		return Errorf(KindInvalid, "keeping owners does not go with user %q", clip(s.User))
	case !s.In && (s.Name != "" || s.Owners || s.User != ""):
		return Errorf(KindInvalid, "name and owners apply only to a copy into the instance")
	case s.In && s.Follow:
		return Errorf(KindInvalid, "follow applies only to a copy out of the instance")
	}
	return nil
}

// ExecIO is the caller's side of a command. Stdin may be nil. Resize carries
// rows and columns; it may be nil.
type ExecIO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan [2]uint16
}

// LogsSpec chooses log lines of an instance.
type LogsSpec struct {
	Service string `json:"service,omitempty"` // empty: every service
	Tail    int    `json:"tail,omitempty"`    // 0: all that is kept
	Follow  bool   `json:"follow,omitempty"`
	Console bool   `json:"console,omitempty"` // the VMM's console instead of the services' logs
	// Since leaves out what is older. Previous is the boot before the last one instead.
	Since    time.Time `json:"since,omitzero"`
	Previous bool      `json:"previous,omitempty"`
	// Record has it put into the audit log. It does not travel.
	Record bool `json:"-"`
}

// LogLine is one line of a guest's log.
type LogLine struct {
	Time    time.Time `json:"time"`
	Service string    `json:"service"`
	Stream  string    `json:"stream"`
	Text    string    `json:"text"`
}

// EventFilter chooses events.
type EventFilter struct {
	Tenant   string `json:"tenant,omitempty"`
	Pool     string `json:"pool,omitempty"`
	Instance string `json:"instance,omitempty"`
	Tail     int    `json:"tail,omitempty"` // last events first sent; 0: all
	Follow   bool   `json:"follow,omitempty"`
	// Since leaves out what is older, Actions what is of another kind, After what has a
	// number up to it; zero values leave nothing out. With After, Tail is not looked at.
	Since   time.Time `json:"since,omitzero"`
	Actions []Action  `json:"actions,omitempty"`
	After   uint64    `json:"after,omitempty"`
}

// InstanceStats are an instance's measures. Bytes on disk count what is allocated.
type InstanceStats struct {
	ID    string        `json:"id"`
	State State         `json:"state"`
	PID   int           `json:"pid,omitempty"`
	CPU   time.Duration `json:"cpu_ns"`
	// CPUThrottled is how long it wanted more CPU time than it may have.
	CPUThrottled time.Duration `json:"cpu_throttled_ns,omitempty"`
	// DiskWait is how long requests of its guest waited for its disks, all added up.
	DiskWait time.Duration `json:"disk_wait_ns,omitempty"`
	// DroppedFrames were beyond its network rate, sent or received, in the last hours; it counts
	// from 0 after an hour without any.
	DroppedFrames uint64 `json:"dropped_frames,omitempty"`
	RSSBytes      int64  `json:"rss_bytes"`
	RxBytes       int64  `json:"rx_bytes"`
	TxBytes       int64  `json:"tx_bytes"`
	DiskBytes     int64  `json:"disk_bytes"`    // data disk
	SleeperBytes  int64  `json:"sleeper_bytes"` // memory and device state of the snapshot
	// ReadyBytes is what of the snapshot is kept in the host's memory too, for a fast wake.
	ReadyBytes  int64       `json:"ready_bytes,omitempty"`
	Connections int         `json:"connections"` // through the gateways
	LastActive  time.Time   `json:"last_active,omitzero"`
	Idle        *IdleStatus `json:"idle,omitempty"` // of one that holds memory
	// Integrations are as the guest says now, else as it said last.
	Integrations []IntegrationState `json:"integrations,omitempty"`
}

// InstanceUsage is what an instance that holds memory has used since its VMM started.
type InstanceUsage struct {
	ID          string        `json:"id"`
	Tenant      string        `json:"tenant"`
	Pool        string        `json:"pool"`
	Key         string        `json:"key,omitempty"`
	State       State         `json:"state"`
	VCPUs       int           `json:"vcpus"`
	MemMiB      int           `json:"mem_mib"`
	Measured    time.Time     `json:"measured"`
	CPU         time.Duration `json:"cpu_ns"`
	RSSBytes    int64         `json:"rss_bytes"`
	RxBytes     int64         `json:"rx_bytes"` // received by the guest
	TxBytes     int64         `json:"tx_bytes"`
	DiskRead    int64         `json:"disk_read_bytes"`
	DiskWritten int64         `json:"disk_written_bytes"`
	Connections int           `json:"connections"` // through the gateways
	// Error says why it could not be measured; empty when it was.
	Error string `json:"error,omitempty"`
}

// Address returns the instance's address.
func (u InstanceUsage) Address() Address {
	return Address{Tenant: u.Tenant, Pool: u.Pool, Instance: u.ID}
}

// NodeInfo describes the host and its agent.
type NodeInfo struct {
	NodeID      string    `json:"node_id"`
	Version     string    `json:"version"`
	PID         int       `json:"pid"`
	Started     time.Time `json:"started"`
	DataDir     string    `json:"data_dir"`
	APIAddress  string    `json:"api_address,omitempty"` // of the API for other machines
	Driver      string    `json:"driver"`
	VMM         string    `json:"vmm"`
	Accelerator string    `json:"accelerator"`
	Why         string    `json:"why"` // how the accelerator was chosen
	// Missing are the walls around VMMs, and bounds of them, that this host lacks.
	Missing []Finding `json:"missing_walls,omitempty"`
	CPUs    int       `json:"cpus"`
	MemMiB  int       `json:"mem_mib"`
	// Held is the desired state that the host is held to, nil where there is none.
	Held *HeldState `json:"held,omitempty"`
}

// HeldState tells of a desired state that a host is held to.
type HeldState struct {
	// Digest is "sha256:" and the hash of the state as `mvm agent desired` would print it.
	Digest string    `json:"digest"`
	By     Asker     `json:"by"`
	At     time.Time `json:"at"`
	Signed bool      `json:"signed,omitempty"` // it was accepted because of its signature
}

// NodeStats are the host's measures.
type NodeStats struct {
	Instances  map[State]int `json:"instances"`
	Tenants    int           `json:"tenants"`
	FreeMemMiB int           `json:"free_mem_mib"`
	Goroutines int           `json:"goroutines"`
	OpenFiles  int           `json:"open_files"`
	AgentRSS   int64         `json:"agent_rss_bytes"`
	// AgentHeap is what the last garbage collection of the agent found in use.
	AgentHeap int64 `json:"agent_heap_bytes"`
	// Ready is how many sleeping instances have their memory in the host's memory too, for a fast
	// wake, and ReadyBytes what that takes.
	Ready      int   `json:"ready"`
	ReadyBytes int64 `json:"ready_bytes"`
}

// NodeDisk says what mvm holds on the host's disk, in bytes allocated.
type NodeDisk struct {
	Images    int64 `json:"images_bytes"`
	Sleepers  int64 `json:"sleepers_bytes"`
	DataDisks int64 `json:"data_disks_bytes"`
	SetAside  int64 `json:"set_aside_bytes"` // snapshots that could not be used
	Logs      int64 `json:"logs_bytes"`      // of guests and builds
	Other     int64 `json:"other_bytes"`     // records, the agent's own log, and what no record names
	Free      int64 `json:"free_bytes"`
}

// NodeCheck says how the data of a host is checked.
type NodeCheck struct {
	Repair   bool `json:"repair,omitempty"`    // remove what no record names
	ReadData bool `json:"read_data,omitempty"` // read and verify all images and snapshots, too
}

// Finding is one thing that a check found, with its fix.
type Finding struct {
	Severity string `json:"severity"` // "ok", "warning" or "error"
	What     string `json:"what"`
	Where    string `json:"where,omitempty"`
	Fix      string `json:"fix,omitempty"`
}
