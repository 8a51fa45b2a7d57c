package store

import (
	"net/netip"
	"time"

	"mvm"
)

// Records of pools.

type poolRecord struct {
	Tenant      string           `json:"tenant"`
	Spec        poolSpecRecord   `json:"spec"`
	Created     time.Time        `json:"created"`
	Builds      []buildRecord    `json:"builds,omitempty"`
	Destroying  bool             `json:"destroying,omitempty"`
	Bound       []netip.AddrPort `json:"bound,omitempty"`
	Problem     string           `json:"problem,omitempty"`
	Unpublished string           `json:"unpublished,omitempty"`
}

func recordOfPool(v mvm.Pool) poolRecord {
	return poolRecord{
		Tenant: v.Tenant, Spec: recordOfPoolSpec(v.Spec), Created: v.Created, Builds: each(v.Builds, recordOfBuild),
		Destroying: v.Destroying, Bound: v.Bound, Problem: v.Problem, Unpublished: v.Unpublished,
	}
}

func (r poolRecord) noun() mvm.Pool {
	return mvm.Pool{
		Tenant: r.Tenant, Spec: r.Spec.noun(), Created: r.Created, Builds: each(r.Builds, buildRecord.noun),
		Destroying: r.Destroying, Bound: r.Bound, Problem: r.Problem, Unpublished: r.Unpublished,
	}
}

type poolSpecRecord struct {
	ID           string              `json:"id"`
	Role         mvm.Role            `json:"role"`
	Profile      string              `json:"profile"`
	Flake        string              `json:"flake"`
	Resources    resourcesRecord     `json:"resources"`
	Desired      countsRecord        `json:"desired"`
	Policy       runtimePolicyRecord `json:"policy"`
	Limits       limitsRecord        `json:"limits,omitzero"`
	Pinned       bool                `json:"pinned,omitempty"`
	Critical     bool                `json:"critical,omitempty"`
	Routes       *routingTableRecord `json:"routes,omitempty"`
	Publish      []publishRecord     `json:"publish,omitempty"`
	SecretScopes []secretScopeRecord `json:"secret_scopes,omitempty"`
	Env          map[string]string   `json:"env,omitempty"`
	Integrations []integrationRecord `json:"integrations,omitempty"`
	Channels     []channelRecord     `json:"channels,omitempty"`
	WakeCatchUp  mvm.CatchUp         `json:"wake_catch_up,omitempty"`
	Egress       []string            `json:"egress,omitempty"`
	Peers        bool                `json:"peers,omitempty"`
}

func recordOfPoolSpec(v mvm.PoolSpec) poolSpecRecord {
	return poolSpecRecord{
		ID: v.ID, Role: v.Role, Profile: v.Profile, Flake: v.Flake,
		Resources: recordOfResources(v.Resources), Desired: recordOfCounts(v.Desired), Policy: recordOfRuntimePolicy(v.Policy), Limits: recordOfLimits(v.Limits), Pinned: v.Pinned,
		Critical: v.Critical, Routes: one(v.Routes, recordOfRoutingTable), Publish: each(v.Publish, recordOfPublish), SecretScopes: each(v.SecretScopes, recordOfSecretScope),
		Env: v.Env, Integrations: each(v.Integrations, recordOfIntegration), Channels: each(v.Channels, recordOfChannel), WakeCatchUp: v.WakeCatchUp, Egress: v.Egress, Peers: v.Peers,
	}
}

func (r poolSpecRecord) noun() mvm.PoolSpec {
	return mvm.PoolSpec{
		ID: r.ID, Role: r.Role, Profile: r.Profile, Flake: r.Flake,
		Resources: r.Resources.noun(), Desired: r.Desired.noun(), Policy: r.Policy.noun(), Limits: r.Limits.noun(), Pinned: r.Pinned,
		Critical: r.Critical, Routes: one(r.Routes, routingTableRecord.noun), Publish: each(r.Publish, publishRecord.noun), SecretScopes: each(r.SecretScopes, secretScopeRecord.noun),
		Env: r.Env, Integrations: each(r.Integrations, integrationRecord.noun), Channels: each(r.Channels, channelRecord.noun), WakeCatchUp: r.WakeCatchUp, Egress: r.Egress, Peers: r.Peers,
	}
}

type resourcesRecord struct {
	VCPUs       int `json:"vcpus"`
	MemMiB      int `json:"mem_mib"`
	DataDiskMiB int `json:"data_disk_mib"`
}

func recordOfResources(v mvm.Resources) resourcesRecord { return resourcesRecord(v) }

func (r resourcesRecord) noun() mvm.Resources { return mvm.Resources(r) }

type countsRecord struct {
	Running  int `json:"running"`
	Warm     int `json:"warm"`
	Sleeping int `json:"sleeping"`
}

func recordOfCounts(v mvm.Counts) countsRecord { return countsRecord(v) }

func (r countsRecord) noun() mvm.Counts { return mvm.Counts(r) }

type runtimePolicyRecord struct {
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

func recordOfRuntimePolicy(v mvm.RuntimePolicy) runtimePolicyRecord { return runtimePolicyRecord(v) }

func (r runtimePolicyRecord) noun() mvm.RuntimePolicy { return mvm.RuntimePolicy(r) }

type routingTableRecord struct {
	Routes []routeRecord `json:"routes"`
}

func recordOfRoutingTable(v mvm.RoutingTable) routingTableRecord {
	return routingTableRecord{
		Routes: each(v.Routes, recordOfRoute),
	}
}

func (r routingTableRecord) noun() mvm.RoutingTable {
	return mvm.RoutingTable{
		Routes: each(r.Routes, routeRecord.noun),
	}
}

type routeRecord struct {
	Name           string          `json:"name"`
	Match          matchRuleRecord `json:"match_rule"`
	To             targetRecord    `json:"target"`
	Auth           *authRecord     `json:"auth,omitempty"`
	TrustedProxies []netip.Prefix  `json:"trusted_proxies,omitempty"`
}

func recordOfRoute(v mvm.Route) routeRecord {
	return routeRecord{
		Name: v.Name, Match: recordOfMatchRule(v.Match), To: recordOfTarget(v.To), Auth: one(v.Auth, recordOfAuth),
		TrustedProxies: v.TrustedProxies,
	}
}

func (r routeRecord) noun() mvm.Route {
	return mvm.Route{
		Name: r.Name, Match: r.Match.noun(), To: r.To.noun(), Auth: one(r.Auth, authRecord.noun),
		TrustedProxies: r.TrustedProxies,
	}
}

type matchRuleRecord struct {
	Port       int    `json:"port,omitempty"`
	PathPrefix string `json:"path_prefix,omitempty"`
	SourceCIDR string `json:"source_cidr,omitempty"`
}

func recordOfMatchRule(v mvm.MatchRule) matchRuleRecord { return matchRuleRecord(v) }

func (r matchRuleRecord) noun() mvm.MatchRule { return mvm.MatchRule(r) }

type targetRecord struct {
	PoolID     string         `json:"pool_id"`
	Selector   selectorRecord `json:"instance_selector"`
	TargetPort int            `json:"target_port"`
}

func recordOfTarget(v mvm.Target) targetRecord {
	return targetRecord{
		PoolID: v.PoolID, Selector: recordOfSelector(v.Selector), TargetPort: v.TargetPort,
	}
}

func (r targetRecord) noun() mvm.Target {
	return mvm.Target{
		PoolID: r.PoolID, Selector: r.Selector.noun(), TargetPort: r.TargetPort,
	}
}

type authRecord struct {
	Mode          mvm.AuthMode   `json:"mode"`
	Algorithm     string         `json:"algorithm,omitempty"`
	Keys          []string       `json:"keys,omitempty"`
	Claim         string         `json:"claim,omitempty"`
	Issuer        string         `json:"issuer,omitempty"`
	Audience      string         `json:"audience,omitempty"`
	LeewaySeconds int            `json:"leeway_seconds,omitempty"`
	Token         string         `json:"token,omitempty"`
	Trusted       []netip.Prefix `json:"trusted,omitempty"`
}

func recordOfAuth(v mvm.Auth) authRecord { return authRecord(v) }

func (r authRecord) noun() mvm.Auth { return mvm.Auth(r) }

type publishRecord struct {
	Host      netip.AddrPort `json:"host"`
	Guest     int            `json:"guest"`
	ProxyFrom string         `json:"proxy_from,omitempty"`
}

func recordOfPublish(v mvm.Publish) publishRecord { return publishRecord(v) }

func (r publishRecord) noun() mvm.Publish { return mvm.Publish(r) }

type secretScopeRecord struct {
	Integration string   `json:"integration"`
	Keys        []string `json:"keys"`
}

func recordOfSecretScope(v mvm.SecretScope) secretScopeRecord { return secretScopeRecord(v) }

func (r secretScopeRecord) noun() mvm.SecretScope { return mvm.SecretScope(r) }

type integrationRecord struct {
	Name           string `json:"name"`
	CheckpointCmd  string `json:"checkpoint_cmd"`
	RestoreCmd     string `json:"restore_cmd"`
	Critical       bool   `json:"critical"`
	TimeoutSeconds int    `json:"timeout_seconds,omitempty"`
}

func recordOfIntegration(v mvm.Integration) integrationRecord { return integrationRecord(v) }

func (r integrationRecord) noun() mvm.Integration { return mvm.Integration(r) }

type buildRecord struct {
	ID     string    `json:"id"`
	Flake  string    `json:"flake"`
	Digest string    `json:"digest"`
	Built  time.Time `json:"built"`

	Role    mvm.Role `json:"role,omitempty"`
	Profile string   `json:"profile,omitempty"`
}

func recordOfBuild(v mvm.Build) buildRecord { return buildRecord(v) }

func (r buildRecord) noun() mvm.Build { return mvm.Build(r) }

type channelRecord struct {
	Name      string              `json:"name"`
	Kind      mvm.ChannelKind     `json:"kind"`
	Secret    string              `json:"secret"`
	Mode      mvm.ChannelMode     `json:"mode,omitempty"`
	Allow     []string            `json:"allow"`
	To        channelTargetRecord `json:"target"`
	Port      int                 `json:"port,omitempty"`
	URL       string              `json:"url,omitempty"`
	ProxyPort int                 `json:"proxy_port,omitempty"`
	APIRoot   string              `json:"api_root,omitempty"`

	VerifySecret string       `json:"verify_secret,omitempty"`
	Auth         mvm.HookAuth `json:"auth,omitempty"`
	IDFrom       string       `json:"id_from,omitempty"`
	ChatFrom     string       `json:"chat_from,omitempty"`
	SenderFrom   string       `json:"sender_from,omitempty"`
}

func recordOfChannel(v mvm.Channel) channelRecord {
	return channelRecord{Name: v.Name, Kind: v.Kind, Secret: v.Secret, Mode: v.Mode, Allow: v.Allow, To: recordOfChannelTarget(v.To),
		Port: v.Port, URL: v.URL, ProxyPort: v.ProxyPort, APIRoot: v.APIRoot,
		VerifySecret: v.VerifySecret, Auth: v.Auth, IDFrom: v.IDFrom, ChatFrom: v.ChatFrom, SenderFrom: v.SenderFrom}
}

func (r channelRecord) noun() mvm.Channel {
	return mvm.Channel{Name: r.Name, Kind: r.Kind, Secret: r.Secret, Mode: r.Mode, Allow: r.Allow, To: r.To.noun(),
		Port: r.Port, URL: r.URL, ProxyPort: r.ProxyPort, APIRoot: r.APIRoot,
		VerifySecret: r.VerifySecret, Auth: r.Auth, IDFrom: r.IDFrom, ChatFrom: r.ChatFrom, SenderFrom: r.SenderFrom}
}

// From is empty for "any".
type channelTargetRecord struct {
	PoolID     string            `json:"pool_id"`
	From       string            `json:"from,omitempty"`
	TargetPort int               `json:"target_port"`
	Path       string            `json:"path"`
	Accept     mvm.ChannelAccept `json:"accept,omitempty"`
}

func recordOfChannelTarget(v mvm.ChannelTarget) channelTargetRecord {
	return channelTargetRecord{PoolID: v.PoolID, From: v.Selector.From, TargetPort: v.TargetPort, Path: v.Path, Accept: v.Accept}
}

func (r channelTargetRecord) noun() mvm.ChannelTarget {
	return mvm.ChannelTarget{PoolID: r.PoolID, Selector: mvm.ChannelSelector{From: r.From}, TargetPort: r.TargetPort, Path: r.Path, Accept: r.Accept}
}
