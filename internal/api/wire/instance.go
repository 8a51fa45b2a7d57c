package wire

import (
	"net/netip"
	"time"

	"mvm"
)

// Instance is mvm.Instance on the wire.
type Instance struct {
	ID                  string             `json:"id"`
	Tenant              string             `json:"tenant"`
	Pool                string             `json:"pool"`
	Key                 string             `json:"key,omitempty"`
	Role                mvm.Role           `json:"role"`
	State               mvm.State          `json:"state"`
	Offset              int                `json:"offset"`
	IP                  netip.Addr         `json:"ip"`
	MAC                 string             `json:"mac"`
	Res                 Resources          `json:"resources"`
	Image               string             `json:"image"`
	BuildID             string             `json:"build_id"`
	EnvDigest           string             `json:"env_digest,omitempty"`
	Created             time.Time          `json:"created"`
	Changed             time.Time          `json:"changed"`
	Op                  *Op                `json:"op,omitempty"`
	Last                *Transition        `json:"last,omitempty"`
	Snapshot            *SnapshotRef       `json:"snapshot,omitempty"`
	SetAside            []SetAside         `json:"set_aside,omitempty"`
	DiskGeneration      int                `json:"disk_generation"`
	DiskMade            bool               `json:"disk_made,omitempty"`
	UID                 int                `json:"uid"`
	SecretsGeneration   int                `json:"secrets_generation"`
	ManualOverrideUntil time.Time          `json:"manual_override_until,omitzero"`
	Parked              bool               `json:"parked,omitempty"`
	Unproven            bool               `json:"unproven,omitempty"`
	Ready               bool               `json:"ready"`
	Integrations        []IntegrationState `json:"integrations,omitempty"`
	Suspends            bool               `json:"suspends,omitempty"`
	Held                bool               `json:"held,omitempty"`
	Untold              string             `json:"untold,omitempty"`
	NextWake            time.Time          `json:"next_wake,omitzero"`
	Idle                *IdleStatus        `json:"idle,omitempty"`
	Problem             string             `json:"problem,omitempty"`
	Health              *Health            `json:"health,omitempty"`
	Stalled             string             `json:"stalled,omitempty"`
	Unlimited           string             `json:"unlimited,omitempty"`
	Backlog             *Backlog           `json:"backlog,omitempty"`
	Building            string             `json:"building,omitempty"`
}

// Of returns the noun on the wire.
func (Instance) Of(n mvm.Instance) Instance {
	return Instance{
		ID: n.ID, Tenant: n.Tenant, Pool: n.Pool, Key: n.Key, Role: n.Role, State: n.State, Offset: n.Offset, IP: n.IP, MAC: n.MAC,
		Res: Resources{}.Of(n.Res), Image: n.Image, BuildID: n.BuildID, EnvDigest: n.EnvDigest, Created: n.Created, Changed: n.Changed,
		Op: one(n.Op, Op{}.Of), Last: one(n.Last, Transition{}.Of), Snapshot: one(n.Snapshot, SnapshotRef{}.Of),
		SetAside: each(n.SetAside, SetAside{}.Of), DiskGeneration: n.DiskGeneration, DiskMade: n.DiskMade, UID: n.UID, SecretsGeneration: n.SecretsGeneration,
		ManualOverrideUntil: n.ManualOverrideUntil, Parked: n.Parked, Unproven: n.Unproven, Ready: n.Ready,
		Integrations: each(n.Integrations, IntegrationState{}.Of), Suspends: n.Suspends, Held: n.Held, Untold: n.Untold, NextWake: n.NextWake,
		Idle: one(n.Idle, IdleStatus{}.Of), Problem: n.Problem, Health: one(n.Health, Health{}.Of), Stalled: n.Stalled, Unlimited: n.Unlimited,
		Backlog: one(n.Backlog, Backlog{}.Of), Building: n.Building,
	}
}

// Noun returns the noun.
func (w Instance) Noun() mvm.Instance {
	return mvm.Instance{
		ID: w.ID, Tenant: w.Tenant, Pool: w.Pool, Key: w.Key, Role: w.Role, State: w.State, Offset: w.Offset, IP: w.IP, MAC: w.MAC,
		Res: w.Res.Noun(), Image: w.Image, BuildID: w.BuildID, EnvDigest: w.EnvDigest, Created: w.Created, Changed: w.Changed,
		Op: one(w.Op, Op.Noun), Last: one(w.Last, Transition.Noun), Snapshot: one(w.Snapshot, SnapshotRef.Noun),
		SetAside: each(w.SetAside, SetAside.Noun), DiskGeneration: w.DiskGeneration, DiskMade: w.DiskMade, UID: w.UID, SecretsGeneration: w.SecretsGeneration,
		ManualOverrideUntil: w.ManualOverrideUntil, Parked: w.Parked, Unproven: w.Unproven, Ready: w.Ready,
		Integrations: each(w.Integrations, IntegrationState.Noun), Suspends: w.Suspends, Held: w.Held, Untold: w.Untold, NextWake: w.NextWake,
		Idle: one(w.Idle, IdleStatus.Noun), Problem: w.Problem, Health: one(w.Health, Health.Noun), Stalled: w.Stalled, Unlimited: w.Unlimited,
		Backlog: one(w.Backlog, Backlog.Noun), Building: w.Building,
	}
}

// Op is mvm.Op on the wire.
type Op struct {
	Kind     mvm.OpKind `json:"kind"`
	Step     string     `json:"step,omitempty"`
	By       mvm.Asker  `json:"by"`
	Why      string     `json:"why,omitempty"`
	Started  time.Time  `json:"started"`
	Request  string     `json:"request,omitempty"`
	Snapshot string     `json:"snapshot,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (Op) Of(n mvm.Op) Op { return Op(n) }
func (w Op) Noun() mvm.Op { return mvm.Op(w) }

// Transition is mvm.Transition on the wire.
type Transition struct {
	Op                mvm.OpKind    `json:"op"`
	From              mvm.State     `json:"from"`
	To                mvm.State     `json:"to"`
	Kind              string        `json:"kind,omitempty"`
	Reason            string        `json:"reason,omitempty"`
	By                mvm.Asker     `json:"by"`
	Started           time.Time     `json:"started"`
	Took              time.Duration `json:"took_ns"`
	Stages            []Stage       `json:"stages,omitempty"`
	ClockError        time.Duration `json:"clock_error_ns,omitempty"`
	Why               string        `json:"why,omitempty"`
	Unwanted          bool          `json:"unwanted,omitempty"`
	Error             string        `json:"error,omitempty"`
	Repeated          int           `json:"repeated,omitempty"`
	Until             time.Time     `json:"until,omitzero"`
	SnapshotBytes     int64         `json:"snapshot_bytes,omitempty"`
	SecretsGeneration int           `json:"secrets_generation,omitempty"`
	Image             string        `json:"image,omitempty"`
	VMM               string        `json:"vmm,omitempty"`
	Request           string        `json:"request,omitempty"`
}

// Of returns the noun on the wire.
func (Transition) Of(n mvm.Transition) Transition {
	return Transition{
		Op: n.Op, From: n.From, To: n.To, Kind: n.Kind, Reason: n.Reason, By: n.By, Started: n.Started, Took: n.Took,
		Stages: each(n.Stages, Stage{}.Of), ClockError: n.ClockError, Why: n.Why, Unwanted: n.Unwanted, Error: n.Error, Repeated: n.Repeated,
		Until: n.Until, SnapshotBytes: n.SnapshotBytes, SecretsGeneration: n.SecretsGeneration, Image: n.Image, VMM: n.VMM, Request: n.Request,
	}
}

// Noun returns the noun.
func (w Transition) Noun() mvm.Transition {
	return mvm.Transition{
		Op: w.Op, From: w.From, To: w.To, Kind: w.Kind, Reason: w.Reason, By: w.By, Started: w.Started, Took: w.Took,
		Stages: each(w.Stages, Stage.Noun), ClockError: w.ClockError, Why: w.Why, Unwanted: w.Unwanted, Error: w.Error, Repeated: w.Repeated,
		Until: w.Until, SnapshotBytes: w.SnapshotBytes, SecretsGeneration: w.SecretsGeneration, Image: w.Image, VMM: w.VMM, Request: w.Request,
	}
}

// Story is mvm.Story on the wire.
type Story struct {
	Instance      Instance     `json:"instance"`
	TenantSecrets int          `json:"tenant_secrets_generation"`
	Transitions   []Transition `json:"transitions"`
	Notes         []Event      `json:"notes,omitempty"`
	Queued        int          `json:"queued,omitempty"`
	LastLines     []string     `json:"last_lines,omitempty"`
	LastOf        string       `json:"last_lines_of,omitempty"`
}

// Of returns the noun on the wire.
func (Story) Of(n mvm.Story) Story {
	return Story{
		Instance: Instance{}.Of(n.Instance), TenantSecrets: n.TenantSecrets, Transitions: each(n.Transitions, Transition{}.Of),
		Notes: each(n.Notes, Event{}.Of), Queued: n.Queued, LastLines: n.LastLines, LastOf: n.LastOf,
	}
}

// Noun returns the noun.
func (w Story) Noun() mvm.Story {
	return mvm.Story{
		Instance: w.Instance.Noun(), TenantSecrets: w.TenantSecrets, Transitions: each(w.Transitions, Transition.Noun),
		Notes: each(w.Notes, Event.Noun), Queued: w.Queued, LastLines: w.LastLines, LastOf: w.LastOf,
	}
}

// Stage is mvm.Stage on the wire.
type Stage struct {
	Name string        `json:"name"`
	Took time.Duration `json:"took_ns"`
}

// Of returns the noun on the wire, and Noun the noun.
func (Stage) Of(n mvm.Stage) Stage { return Stage(n) }
func (w Stage) Noun() mvm.Stage    { return mvm.Stage(w) }

// SnapshotRef is mvm.SnapshotRef on the wire.
type SnapshotRef struct {
	ID             string    `json:"id"`
	Image          string    `json:"image"`
	VMM            string    `json:"vmm"`
	Machine        string    `json:"machine"`
	DiskGeneration int       `json:"disk_generation"`
	MemMiB         int       `json:"mem_mib"`
	Bytes          int64     `json:"bytes"`
	Taken          time.Time `json:"taken"`
	PausedAt       time.Time `json:"paused_at"`
	BootID         string    `json:"boot_id"`
	Consumed       bool      `json:"consumed,omitempty"`
	Sealed         bool      `json:"sealed,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (SnapshotRef) Of(n mvm.SnapshotRef) SnapshotRef { return SnapshotRef(n) }
func (w SnapshotRef) Noun() mvm.SnapshotRef          { return mvm.SnapshotRef(w) }
