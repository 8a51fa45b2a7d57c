package wire

import (
	"net/netip"
	"time"

	"mvm"
)

// Resources is mvm.Resources on the wire.
type Resources struct {
	VCPUs       int `json:"vcpus"`
	MemMiB      int `json:"mem_mib"`
	DataDiskMiB int `json:"data_disk_mib"`
}

// Of returns the noun on the wire, and Noun the noun.
func (Resources) Of(n mvm.Resources) Resources { return Resources(n) }
func (w Resources) Noun() mvm.Resources        { return mvm.Resources(w) }

// Counts is mvm.Counts on the wire.
type Counts struct {
	Running  int `json:"running"`
	Warm     int `json:"warm"`
	Sleeping int `json:"sleeping"`
}

// Of returns the noun on the wire, and Noun the noun.
func (Counts) Of(n mvm.Counts) Counts { return Counts(n) }
func (w Counts) Noun() mvm.Counts     { return mvm.Counts(w) }

// RuntimePolicy is mvm.RuntimePolicy on the wire.
type RuntimePolicy struct {
	MinRunningSeconds       int `json:"min_running_seconds"`
	MinWarmSeconds          int `json:"min_warm_seconds"`
	DrainTimeoutSeconds     int `json:"drain_timeout_seconds"`
	GracefulShutdownSeconds int `json:"graceful_shutdown_seconds"`
	WarmAfterSeconds        int `json:"warm_after_seconds"`
	SleepAfterSeconds       int `json:"sleep_after_seconds"`
	IdleCPUPercent          int `json:"idle_cpu_percent,omitempty"`
	IdleBytesPerMinute      int `json:"idle_bytes_per_minute,omitempty"`
	QuietConnectionSeconds  int `json:"quiet_connection_seconds,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (RuntimePolicy) Of(n mvm.RuntimePolicy) RuntimePolicy { return RuntimePolicy(n) }
func (w RuntimePolicy) Noun() mvm.RuntimePolicy            { return mvm.RuntimePolicy(w) }

// Publish is mvm.Publish on the wire.
type Publish struct {
	Host      netip.AddrPort `json:"host"`
	Guest     int            `json:"guest"`
	ProxyFrom string         `json:"proxy_from,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (Publish) Of(n mvm.Publish) Publish { return Publish(n) }
func (w Publish) Noun() mvm.Publish      { return mvm.Publish(w) }

// PoolSpec is mvm.PoolSpec on the wire.
type PoolSpec struct {
	ID           string            `json:"id"`
	Role         mvm.Role          `json:"role"`
	Profile      string            `json:"profile"`
	Flake        string            `json:"flake"`
	Resources    Resources         `json:"resources"`
	Desired      Counts            `json:"desired"`
	Policy       RuntimePolicy     `json:"policy"`
	Limits       Limits            `json:"limits,omitzero"`
	Pinned       bool              `json:"pinned,omitempty"`
	Critical     bool              `json:"critical,omitempty"`
	Routes       *RoutingTable     `json:"routes,omitempty"`
	Channels     []Channel         `json:"channels,omitempty"`
	Publish      []Publish         `json:"publish,omitempty"`
	SecretScopes []SecretScope     `json:"secret_scopes,omitempty"`
	Env          map[string]string `json:"env,omitempty"`
	Integrations []Integration     `json:"integrations,omitempty"`
	WakeCatchUp  mvm.CatchUp       `json:"wake_catch_up,omitempty"`
	Egress       []string          `json:"egress,omitempty"`
	Peers        bool              `json:"peers,omitempty"`
}

// Of returns the noun on the wire.
func (PoolSpec) Of(n mvm.PoolSpec) PoolSpec {
	return PoolSpec{
		ID: n.ID, Role: n.Role, Profile: n.Profile, Flake: n.Flake, Resources: Resources{}.Of(n.Resources), Desired: Counts{}.Of(n.Desired),
		Policy: RuntimePolicy{}.Of(n.Policy), Limits: Limits{}.Of(n.Limits), Pinned: n.Pinned, Critical: n.Critical, Routes: one(n.Routes, RoutingTable{}.Of),
		Channels: each(n.Channels, Channel{}.Of), Publish: each(n.Publish, Publish{}.Of), SecretScopes: each(n.SecretScopes, SecretScope{}.Of),
		Env: n.Env, Integrations: each(n.Integrations, Integration{}.Of), WakeCatchUp: n.WakeCatchUp, Egress: n.Egress, Peers: n.Peers,
	}
}

// Noun returns the noun.
func (w PoolSpec) Noun() mvm.PoolSpec {
	return mvm.PoolSpec{
		ID: w.ID, Role: w.Role, Profile: w.Profile, Flake: w.Flake, Resources: w.Resources.Noun(), Desired: w.Desired.Noun(),
		Policy: w.Policy.Noun(), Limits: w.Limits.Noun(), Pinned: w.Pinned, Critical: w.Critical, Routes: one(w.Routes, RoutingTable.Noun),
		Channels: each(w.Channels, Channel.Noun), Publish: each(w.Publish, Publish.Noun), SecretScopes: each(w.SecretScopes, SecretScope.Noun),
		Env: w.Env, Integrations: each(w.Integrations, Integration.Noun), WakeCatchUp: w.WakeCatchUp, Egress: w.Egress, Peers: w.Peers,
	}
}

// SecretScope is mvm.SecretScope on the wire.
type SecretScope struct {
	Integration string   `json:"integration"`
	Keys        []string `json:"keys"`
}

// Of returns the noun on the wire, and Noun the noun.
func (SecretScope) Of(n mvm.SecretScope) SecretScope { return SecretScope(n) }
func (w SecretScope) Noun() mvm.SecretScope          { return mvm.SecretScope(w) }

// Pool is mvm.Pool on the wire.
type Pool struct {
	Tenant      string            `json:"tenant"`
	Spec        PoolSpec          `json:"spec"`
	Created     time.Time         `json:"created"`
	Builds      []Build           `json:"builds,omitempty"`
	Destroying  bool              `json:"destroying,omitempty"`
	Bound       []netip.AddrPort  `json:"bound,omitempty"`
	Problem     string            `json:"problem,omitempty"`
	Unpublished string            `json:"unpublished,omitempty"`
	Instances   map[mvm.State]int `json:"instances,omitempty"`
	InForce     Limits            `json:"limits_in_force,omitzero"`
	Warnings    []string          `json:"warnings,omitempty"`
	Health      *PoolHealth       `json:"health,omitempty"`
	Building    string            `json:"building,omitempty"`
}

// Of returns the noun on the wire.
func (Pool) Of(n mvm.Pool) Pool {
	return Pool{
		Tenant: n.Tenant, Spec: PoolSpec{}.Of(n.Spec), Created: n.Created, Builds: each(n.Builds, Build{}.Of), Destroying: n.Destroying,
		Bound: n.Bound, Problem: n.Problem, Unpublished: n.Unpublished, Instances: n.Instances, InForce: Limits{}.Of(n.InForce), Warnings: n.Warnings,
		Health: one(n.Health, PoolHealth{}.Of), Building: n.Building,
	}
}

// Noun returns the noun.
func (w Pool) Noun() mvm.Pool {
	return mvm.Pool{
		Tenant: w.Tenant, Spec: w.Spec.Noun(), Created: w.Created, Builds: each(w.Builds, Build.Noun), Destroying: w.Destroying, Bound: w.Bound,
		Problem: w.Problem, Unpublished: w.Unpublished, Instances: w.Instances, InForce: w.InForce.Noun(), Warnings: w.Warnings, Health: one(w.Health, PoolHealth.Noun), Building: w.Building,
	}
}

// Build is mvm.Build on the wire.
type Build struct {
	ID     string    `json:"id"`
	Flake  string    `json:"flake"`
	Digest string    `json:"digest"`
	Built  time.Time `json:"built"`

	Role    mvm.Role `json:"role,omitempty"`
	Profile string   `json:"profile,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (Build) Of(n mvm.Build) Build { return Build(n) }
func (w Build) Noun() mvm.Build    { return mvm.Build(w) }
