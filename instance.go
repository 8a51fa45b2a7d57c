package mvm

import (
	"net/netip"
	"slices"
	"time"
)

// State is where an instance is in its life (formats.md section 2).
type State string

// The states. Warm: vCPUs paused, memory held. Sleeping: snapshot on disk, no VMM.
const (
	StateCreated   State = "created" // recorded, nothing made yet
	StateReady     State = "ready"   // disks made, never started
	StateRunning   State = "running"
	StateWarm      State = "warm"
	StateSleeping  State = "sleeping"
	StateStopped   State = "stopped"
	StateDestroyed State = "destroyed"
)

// transitions are the changes of state that one change of a record makes.
var transitions = map[State][]State{
	StateCreated:  {StateReady},
	StateReady:    {StateRunning},
	StateRunning:  {StateWarm, StateSleeping, StateStopped},
	StateWarm:     {StateRunning, StateSleeping, StateStopped},
	StateSleeping: {StateRunning, StateWarm, StateStopped}, // warm: by a sleep of a warm one that is taken back
	StateStopped:  {StateRunning, StateSleeping},           // asleep by a snapshot that is brought back
}

// CanBecome reports whether one change of a record leads from s to the other state. The
// simulation checks that every change is one of these.
func (s State) CanBecome(to State) bool {
	if to == StateDestroyed {
		return s != StateDestroyed
	}
	return slices.Contains(transitions[s], to)
}

// HoldsMemory reports whether an instance in the state has a VMM process.
func (s State) HoldsMemory() bool { return s == StateRunning || s == StateWarm }

// Instance is one microVM of a pool.
type Instance struct {
	ID      string     `json:"id"`
	Tenant  string     `json:"tenant"`
	Pool    string     `json:"pool"`
	Key     string     `json:"key,omitempty"` // the user it belongs to, with selector by_key
	Role    Role       `json:"role"`
	State   State      `json:"state"`
	Offset  int        `json:"offset"` // in the tenant's subnet
	IP      netip.Addr `json:"ip"`
	MAC     string     `json:"mac"`
	Res     Resources  `json:"resources"`
	Image   string     `json:"image"` // digest
	BuildID string     `json:"build_id"`
	// EnvDigest names the environment that it was booted with; empty: not known.
	EnvDigest string    `json:"env_digest,omitempty"`
	Created   time.Time `json:"created"`
	Changed   time.Time `json:"changed"` // last change of State
	// Op is the operation under way, durable before it acts; nil when idle.
	Op *Op `json:"op,omitempty"`
	// Last tells how the instance came to its state.
	Last *Transition `json:"last,omitempty"`
	// Snapshot is the committed snapshot of a sleeping instance.
	Snapshot *SnapshotRef `json:"snapshot,omitempty"`
	// SetAside are snapshots that could not be used, oldest first.
	SetAside []SetAside `json:"set_aside,omitempty"`
	// DiskGeneration counts the times the disks were opened for writing.
	DiskGeneration int `json:"disk_generation"`
	// DiskMade: its data disk was made. If the file is gone later, a start fails: it never makes
	// an empty one in its place. False in records of older versions until the next start.
	DiskMade bool `json:"disk_made,omitempty"`
	// UID is the unprivileged user that the VMM runs as.
	UID int `json:"uid"`
	// SecretsGeneration is the generation that the guest confirmed last.
	SecretsGeneration   int       `json:"secrets_generation"`
	ManualOverrideUntil time.Time `json:"manual_override_until,omitzero"`
	// Parked: the policy made it warm or put it to sleep because it was idle. It stands for the
	// running or warm one that it was: who counts what is desired counts it, and does not wake it. It
	// ends when the instance runs again, or when somebody else stops it or puts it to sleep.
	Parked bool `json:"parked,omitempty"`
	// Unproven: it was made for a key that nobody vouches for, and has not answered a
	// request of it with success yet.
	Unproven bool `json:"unproven,omitempty"`
	// Ready: since its last boot every service of the image was ready once.
	Ready bool `json:"ready"`
	// Integrations are as the guest said last: after a checkpoint or a restore.
	Integrations []IntegrationState `json:"integrations,omitempty"`
	// Suspends: its image has services that hold still before the machine does. Held:
	// they were asked to, and are told to go on when it runs again.
	Suspends bool `json:"suspends,omitempty"`
	Held     bool `json:"held,omitempty"`
	// Untold says which services could not be told of the secrets in force, and why.
	Untold string `json:"untold,omitempty"`
	// NextWake is when its workload wants to be awake next, as its guest said last; zero: it
	// does not say. See MaxNextWake.
	NextWake time.Time `json:"next_wake,omitzero"`
	// Idle says how idle an instance is that holds memory. It is measured, not stored.
	Idle *IdleStatus `json:"idle,omitempty"`
	// Problem says what is wrong with the instance; empty when nothing is.
	Problem string `json:"problem,omitempty"`
	// Health says how the services of a running instance are, nil where that is not
	// known. It is reported, not stored.
	Health *Health `json:"health,omitempty"`
	// Stalled says why a running instance's VM stands still though nobody paused it; empty
	// when it does not. It is observed, not stored.
	Stalled string `json:"stalled,omitempty"`
	// Unlimited says why its VMM does not have the limits that it should have; empty: it has.
	Unlimited string `json:"unlimited,omitempty"`
	// Backlog says that messages of chats wait for it for long, nil where none does. Gateways
	// report it; it is not stored.
	Backlog  *Backlog `json:"backlog,omitempty"`
	Building string   `json:"building,omitempty"` // id of the build that its pool waits for; told, not stored
}

// HasSnapshot reports whether the id is that of a snapshot of the instance.
func (i Instance) HasSnapshot(id string) bool {
	return i.Snapshot != nil && i.Snapshot.ID == id ||
		slices.ContainsFunc(i.SetAside, func(s SetAside) bool { return s.Snapshot.ID == id })
}

// Address returns the instance's address.
func (i Instance) Address() Address {
	return Address{Tenant: i.Tenant, Pool: i.Pool, Instance: i.ID}
}

// OpKind is an operation on an instance.
type OpKind string

// The operations.
const (
	OpCreate  OpKind = "create"
	OpStart   OpKind = "start"
	OpStop    OpKind = "stop"
	OpWarm    OpKind = "warm"
	OpResume  OpKind = "resume"
	OpSleep   OpKind = "sleep"
	OpWake    OpKind = "wake"
	OpDestroy OpKind = "destroy"
	// OpRestart stops an instance, where there is something to stop, and boots it from its disks.
	OpRestart OpKind = "restart"
	// OpRestore brings back a snapshot that was set aside.
	OpRestore OpKind = "restore"
)

// Rises reports whether the operation brings an instance up: start, wake, resume.
func (k OpKind) Rises() bool { return k == OpStart || k == OpWake || k == OpResume }

// Leads returns the state that the operation leads an instance in the given one to;
// the same one where the operation has none to lead to.
func (k OpKind) Leads(from State) State {
	switch k {
	case OpCreate:
		return StateReady
	case OpStart, OpResume, OpWake, OpRestart:
		return StateRunning
	case OpWarm:
		return StateWarm
	case OpSleep, OpRestore:
		return StateSleeping
	case OpStop:
		return StateStopped
	}
	return from
}

// Op is the durable intent of an operation.
type Op struct {
	Kind    OpKind    `json:"kind"`
	Step    string    `json:"step,omitempty"` // the last step whose intent was made durable
	By      Asker     `json:"by"`
	Why     string    `json:"why,omitempty"`
	Started time.Time `json:"started"`
	Request string    `json:"request,omitempty"` // id of the request that asked for it
	// Snapshot is the one that a restore is about.
	Snapshot string `json:"snapshot,omitempty"`
}

// Transition records how an operation went.
type Transition struct {
	Op      OpKind        `json:"op"`
	From    State         `json:"from"`
	To      State         `json:"to"`
	Kind    string        `json:"kind,omitempty"` // a start or wake: "warm" (from snapshot) or "cold" (from disk)
	Reason  string        `json:"reason,omitempty"`
	By      Asker         `json:"by"`
	Started time.Time     `json:"started"`
	Took    time.Duration `json:"took_ns"`
	Stages  []Stage       `json:"stages,omitempty"`
	// ClockError is the guest clock's error after the gate, as measured by the host.
	ClockError time.Duration `json:"clock_error_ns,omitempty"`
	// Why is what the asker gave as the reason; Reason tells of the way that it went.
	Why string `json:"why,omitempty"`
	// Unwanted: a stop that nobody wanted to last. The VMM had ended by itself, or
	// reconcile was restarting the instance.
	Unwanted bool `json:"unwanted,omitempty"`
	// Error is why it failed; empty when it did not. To is then where it was left.
	Error string `json:"error,omitempty"`
	// Repeated counts tries after this one that failed in the same way, up to Until.
	Repeated int       `json:"repeated,omitempty"`
	Until    time.Time `json:"until,omitzero"`
	// SnapshotBytes are what the snapshot that was written or read holds on disk.
	SnapshotBytes int64 `json:"snapshot_bytes,omitempty"`
	// SecretsGeneration is the one that the guest had in force at its end.
	SecretsGeneration int    `json:"secrets_generation,omitempty"`
	Image             string `json:"image,omitempty"`   // digest
	VMM               string `json:"vmm,omitempty"`     // driver, version and binary digest
	Request           string `json:"request,omitempty"` // id of the request that asked for it
}

// Story is how an instance came to where it is.
type Story struct {
	Instance Instance `json:"instance"`
	// TenantSecrets is the generation that the tenant's secrets have now.
	TenantSecrets int `json:"tenant_secrets_generation"`
	// Transitions are its last ones, oldest first.
	Transitions []Transition `json:"transitions"`
	// Notes are events since its last change of state that say what was put off,
	// refused or did not go as wanted, oldest first.
	Notes []Event `json:"notes,omitempty"`
	// Queued counts the operations that wait behind the one under way.
	Queued int `json:"queued,omitempty"`
	// LastLines are the last lines of the log of a service that fails, or of the console
	// where the guest ended by itself; LastOf says which: "app", "console".
	LastLines []string `json:"last_lines,omitempty"`
	LastOf    string   `json:"last_lines_of,omitempty"`
}

// Stage is the time that one step took.
type Stage struct {
	Name string        `json:"name"`
	Took time.Duration `json:"took_ns"`
}

// SnapshotRef describes a committed snapshot: what it belongs to and its size.
type SnapshotRef struct {
	ID             string    `json:"id"`
	Image          string    `json:"image"`
	VMM            string    `json:"vmm"`     // driver, version and binary digest
	Machine        string    `json:"machine"` // machine type and CPU model
	DiskGeneration int       `json:"disk_generation"`
	MemMiB         int       `json:"mem_mib"`
	Bytes          int64     `json:"bytes"` // held on disk, memory and device state
	Taken          time.Time `json:"taken"`
	// PausedAt is when the vCPUs stood still, by the host's clock.
	PausedAt time.Time `json:"paused_at"`
	BootID   string    `json:"boot_id"` // of the host
	// Consumed: vCPUs were about to run from it, so memory and disks may have gone on.
	Consumed bool `json:"consumed,omitempty"`
	// Sealed: its files are encrypted with the tenant's key. Those of older versions are not.
	Sealed bool `json:"sealed,omitempty"`
}
