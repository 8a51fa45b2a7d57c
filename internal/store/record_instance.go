package store

import (
	"net/netip"
	"time"

	"mvm"
)

// Records of instances and of how they came to where they are. What is measured of an
// instance (Idle, Health, Stalled) is not kept.

type instanceRecord struct {
	ID                  string                   `json:"id"`
	Tenant              string                   `json:"tenant"`
	Pool                string                   `json:"pool"`
	Key                 string                   `json:"key,omitempty"`
	Role                mvm.Role                 `json:"role"`
	State               mvm.State                `json:"state"`
	Offset              int                      `json:"offset"`
	IP                  netip.Addr               `json:"ip"`
	MAC                 string                   `json:"mac"`
	Res                 resourcesRecord          `json:"resources"`
	Image               string                   `json:"image"`
	BuildID             string                   `json:"build_id"`
	EnvDigest           string                   `json:"env_digest,omitempty"`
	Created             time.Time                `json:"created"`
	Changed             time.Time                `json:"changed"`
	Op                  *opRecord                `json:"op,omitempty"`
	Last                *transitionRecord        `json:"last,omitempty"`
	Snapshot            *snapshotRefRecord       `json:"snapshot,omitempty"`
	SetAside            []setAsideRecord         `json:"set_aside,omitempty"`
	DiskGeneration      int                      `json:"disk_generation"`
	DiskMade            bool                     `json:"disk_made,omitempty"`
	UID                 int                      `json:"uid"`
	SecretsGeneration   int                      `json:"secrets_generation"`
	ManualOverrideUntil time.Time                `json:"manual_override_until,omitzero"`
	Parked              bool                     `json:"parked,omitempty"`
	Unproven            bool                     `json:"unproven,omitempty"`
	Ready               bool                     `json:"ready"`
	Integrations        []integrationStateRecord `json:"integrations,omitempty"`
	Suspends            bool                     `json:"suspends,omitempty"`
	Held                bool                     `json:"held,omitempty"`
	Untold              string                   `json:"untold,omitempty"`
	Problem             string                   `json:"problem,omitempty"`
	NextWake            time.Time                `json:"next_wake,omitzero"`
}

func recordOfInstance(v mvm.Instance) instanceRecord {
	return instanceRecord{
		ID: v.ID, Tenant: v.Tenant, Pool: v.Pool, Key: v.Key,
		Role: v.Role, State: v.State, Offset: v.Offset, IP: v.IP,
		MAC: v.MAC, Res: recordOfResources(v.Res), Image: v.Image, BuildID: v.BuildID, EnvDigest: v.EnvDigest,
		Created: v.Created, Changed: v.Changed, Op: one(v.Op, recordOfOp),
		Last: one(v.Last, recordOfTransition), Snapshot: one(v.Snapshot, recordOfSnapshotRef), SetAside: each(v.SetAside, recordOfSetAside), DiskGeneration: v.DiskGeneration, DiskMade: v.DiskMade,
		UID: v.UID, SecretsGeneration: v.SecretsGeneration, ManualOverrideUntil: v.ManualOverrideUntil, Parked: v.Parked,
		Unproven: v.Unproven, Ready: v.Ready, Integrations: each(v.Integrations, recordOfIntegrationState), Suspends: v.Suspends,
		Held: v.Held, Untold: v.Untold, Problem: v.Problem, NextWake: v.NextWake,
	}
}

func (r instanceRecord) noun() mvm.Instance {
	return mvm.Instance{
		ID: r.ID, Tenant: r.Tenant, Pool: r.Pool, Key: r.Key,
		Role: r.Role, State: r.State, Offset: r.Offset, IP: r.IP,
		MAC: r.MAC, Res: r.Res.noun(), Image: r.Image, BuildID: r.BuildID,
		EnvDigest: r.EnvDigest, Created: r.Created, Changed: r.Changed, Op: one(r.Op, opRecord.noun),
		Last: one(r.Last, transitionRecord.noun), Snapshot: one(r.Snapshot, snapshotRefRecord.noun), SetAside: each(r.SetAside, setAsideRecord.noun), DiskGeneration: r.DiskGeneration, DiskMade: r.DiskMade,
		UID: r.UID, SecretsGeneration: r.SecretsGeneration, ManualOverrideUntil: r.ManualOverrideUntil, Parked: r.Parked,
		Unproven: r.Unproven, Ready: r.Ready, Integrations: each(r.Integrations, integrationStateRecord.noun), Suspends: r.Suspends,
		Held: r.Held, Untold: r.Untold, Problem: r.Problem, NextWake: r.NextWake,
	}
}

type opRecord struct {
	Kind     mvm.OpKind `json:"kind"`
	Step     string     `json:"step,omitempty"`
	By       mvm.Asker  `json:"by"`
	Why      string     `json:"why,omitempty"`
	Started  time.Time  `json:"started"`
	Request  string     `json:"request,omitempty"`
	Snapshot string     `json:"snapshot,omitempty"`
}

func recordOfOp(v mvm.Op) opRecord { return opRecord(v) }

func (r opRecord) noun() mvm.Op { return mvm.Op(r) }

type transitionRecord struct {
	Op                mvm.OpKind    `json:"op"`
	From              mvm.State     `json:"from"`
	To                mvm.State     `json:"to"`
	Kind              string        `json:"kind,omitempty"`
	Reason            string        `json:"reason,omitempty"`
	By                mvm.Asker     `json:"by"`
	Started           time.Time     `json:"started"`
	Took              time.Duration `json:"took_ns"`
	Stages            []stageRecord `json:"stages,omitempty"`
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

func recordOfTransition(v mvm.Transition) transitionRecord {
	return transitionRecord{
		Op: v.Op, From: v.From, To: v.To, Kind: v.Kind,
		Reason: v.Reason, By: v.By, Started: v.Started, Took: v.Took,
		Stages: each(v.Stages, recordOfStage), ClockError: v.ClockError, Why: v.Why, Unwanted: v.Unwanted,
		Error: v.Error, Repeated: v.Repeated, Until: v.Until, SnapshotBytes: v.SnapshotBytes,
		SecretsGeneration: v.SecretsGeneration, Image: v.Image, VMM: v.VMM, Request: v.Request,
	}
}

func (r transitionRecord) noun() mvm.Transition {
	return mvm.Transition{
		Op: r.Op, From: r.From, To: r.To, Kind: r.Kind,
		Reason: r.Reason, By: r.By, Started: r.Started, Took: r.Took,
		Stages: each(r.Stages, stageRecord.noun), ClockError: r.ClockError, Why: r.Why, Unwanted: r.Unwanted,
		Error: r.Error, Repeated: r.Repeated, Until: r.Until, SnapshotBytes: r.SnapshotBytes,
		SecretsGeneration: r.SecretsGeneration, Image: r.Image, VMM: r.VMM, Request: r.Request,
	}
}

type stageRecord struct {
	Name string        `json:"name"`
	Took time.Duration `json:"took_ns"`
}

func recordOfStage(v mvm.Stage) stageRecord { return stageRecord(v) }

func (r stageRecord) noun() mvm.Stage { return mvm.Stage(r) }

type snapshotRefRecord struct {
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

func recordOfSnapshotRef(v mvm.SnapshotRef) snapshotRefRecord { return snapshotRefRecord(v) }

func (r snapshotRefRecord) noun() mvm.SnapshotRef { return mvm.SnapshotRef(r) }

type setAsideRecord struct {
	Snapshot    snapshotRefRecord `json:"snapshot"`
	Why         string            `json:"why"`
	At          time.Time         `json:"set_aside"`
	DataDiskMiB int               `json:"data_disk_mib"`
}

func recordOfSetAside(v mvm.SetAside) setAsideRecord {
	return setAsideRecord{
		Snapshot: recordOfSnapshotRef(v.Snapshot), Why: v.Why, At: v.At, DataDiskMiB: v.DataDiskMiB,
	}
}

func (r setAsideRecord) noun() mvm.SetAside {
	return mvm.SetAside{
		Snapshot: r.Snapshot.noun(), Why: r.Why, At: r.At, DataDiskMiB: r.DataDiskMiB,
	}
}

type integrationStateRecord struct {
	Name             string    `json:"name"`
	Status           string    `json:"status"`
	Error            string    `json:"error,omitempty"`
	Critical         bool      `json:"critical,omitempty"`
	Image            bool      `json:"image,omitempty"`
	LastCheckpointAt time.Time `json:"last_checkpoint_at,omitzero"`
	StateBytes       int64     `json:"state_size_bytes"`
}

func recordOfIntegrationState(v mvm.IntegrationState) integrationStateRecord {
	return integrationStateRecord(v)
}

func (r integrationStateRecord) noun() mvm.IntegrationState { return mvm.IntegrationState(r) }
