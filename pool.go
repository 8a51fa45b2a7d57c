package mvm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Role says what a pool's instances are for. Only a gateway may ask the host to
// wake others.
type Role string

// The standard roles.
const (
	RoleGateway  Role = "gateway"
	RoleBuilder  Role = "builder"
	RoleWorker   Role = "worker"
	RoleIMessage Role = "capability-imessage"
)

// Priority orders the roles: 0 starts first and sleeps last.
func (r Role) Priority() int {
	switch r {
	case RoleGateway:
		return 0
	case RoleBuilder:
		return 1
	case RoleIMessage:
		return 3
	}
	return 2
}

// Valid reports whether r is one of the standard roles.
func (r Role) Valid() bool {
	switch r {
	case RoleGateway, RoleBuilder, RoleWorker, RoleIMessage:
		return true
	}
	return false
}

// Resources are what one instance of a pool gets.
type Resources struct {
	VCPUs       int `json:"vcpus"`
	MemMiB      int `json:"mem_mib"`
	DataDiskMiB int `json:"data_disk_mib"` // 0: no data disk
}

// Bounds of resources.
const (
	MinMemMiB  = 128
	MaxVCPUs   = 64
	MaxMemMiB  = 1 << 20
	MaxDiskMiB = 16 << 20
)

// DefaultResources are those of a pool that names none.
func DefaultResources() Resources { return Resources{VCPUs: 2, MemMiB: 1024} }

// Validate checks the bounds.
func (r Resources) Validate() error {
	switch {
	case r.VCPUs < 1 || r.VCPUs > MaxVCPUs:
		return Errorf(KindInvalid, "vcpus %d is not in 1..%d", r.VCPUs, MaxVCPUs)
	case r.MemMiB < MinMemMiB || r.MemMiB > MaxMemMiB:
		return Errorf(KindInvalid, "mem_mib %d is not in %d..%d", r.MemMiB, MinMemMiB, MaxMemMiB)
	case r.DataDiskMiB < 0 || r.DataDiskMiB > MaxDiskMiB:
		return Errorf(KindInvalid, "data_disk_mib %d is not in 0..%d", r.DataDiskMiB, MaxDiskMiB)
	}
	return nil
}

// MaxDesired is the highest desired count of one state in a pool.
const MaxDesired = 100

// Counts are desired numbers of instances by state.
type Counts struct {
	Running  int `json:"running"`
	Warm     int `json:"warm"`
	Sleeping int `json:"sleeping"`
}

// Validate checks that each count is in 0..100.
func (c Counts) Validate() error {
	for _, f := range []struct {
		name string
		n    int
	}{{"running", c.Running}, {"warm", c.Warm}, {"sleeping", c.Sleeping}} {
		if f.n < 0 || f.n > MaxDesired {
			return Errorf(KindInvalid, "desired %s %d is not in 0..%d", f.name, f.n, MaxDesired)
		}
	}
	return nil
}

// RuntimePolicy holds the times, in seconds, that guard and bound transitions.
type RuntimePolicy struct {
	MinRunningSeconds       int `json:"min_running_seconds"`
	MinWarmSeconds          int `json:"min_warm_seconds"`
	DrainTimeoutSeconds     int `json:"drain_timeout_seconds"`
	GracefulShutdownSeconds int `json:"graceful_shutdown_seconds"`
	// WarmAfterSeconds and SleepAfterSeconds are times of idleness; 0: never. With the
	// first 0, or where the second is not longer, it goes straight to sleep.
	WarmAfterSeconds  int `json:"warm_after_seconds"`
	SleepAfterSeconds int `json:"sleep_after_seconds"`
	// IdleCPUPercent, of one of the host's CPUs, and IdleBytesPerMinute, in and out, are
	// the most that an idle instance uses; 0: the default.
	IdleCPUPercent     int `json:"idle_cpu_percent,omitempty"`
	IdleBytesPerMinute int `json:"idle_bytes_per_minute,omitempty"`
	// QuietConnectionSeconds is after how long without a byte the open connections
	// through the gateways no longer keep it awake; 0: they always do.
	QuietConnectionSeconds int `json:"quiet_connection_seconds,omitempty"`
}

// The defaults of what an idle instance may use.
const (
	DefaultIdleCPUPercent     = 10
	DefaultIdleBytesPerMinute = 16 << 10
)

// Bounds of what an idle instance may use: all CPUs that an instance can have, and a
// GiB, which says that bytes do not matter.
const (
	MaxIdleCPUPercent     = 100 * MaxVCPUs
	MaxIdleBytesPerMinute = 1 << 30
)

// IdleLimits returns the most that an idle instance uses, defaults filled in.
func (p RuntimePolicy) IdleLimits() (cpuPercent, bytesPerMinute int) {
	cpuPercent, bytesPerMinute = p.IdleCPUPercent, p.IdleBytesPerMinute
	if cpuPercent == 0 {
		cpuPercent = DefaultIdleCPUPercent
	}
	if bytesPerMinute == 0 {
		bytesPerMinute = DefaultIdleBytesPerMinute
	}
	return cpuPercent, bytesPerMinute
}

// DefaultRuntimePolicy is that of a pool that names none (formats.md section 2).
func DefaultRuntimePolicy() RuntimePolicy {
	return RuntimePolicy{MinRunningSeconds: 60, MinWarmSeconds: 30, DrainTimeoutSeconds: 30,
		GracefulShutdownSeconds: 15, WarmAfterSeconds: 300, SleepAfterSeconds: 900,
		IdleCPUPercent: DefaultIdleCPUPercent, IdleBytesPerMinute: DefaultIdleBytesPerMinute}
}

// MaxPolicySeconds bounds every time of a RuntimePolicy: one week.
const MaxPolicySeconds = 7 * 24 * 3600

// Validate checks that every time is in 0..MaxPolicySeconds, and the others in their
// bounds.
func (p RuntimePolicy) Validate() error {
	for _, f := range []struct {
		name   string
		n, max int
	}{{"min_running_seconds", p.MinRunningSeconds, MaxPolicySeconds}, {"min_warm_seconds", p.MinWarmSeconds, MaxPolicySeconds},
		{"drain_timeout_seconds", p.DrainTimeoutSeconds, MaxPolicySeconds},
		{"graceful_shutdown_seconds", p.GracefulShutdownSeconds, MaxPolicySeconds},
		{"warm_after_seconds", p.WarmAfterSeconds, MaxPolicySeconds}, {"sleep_after_seconds", p.SleepAfterSeconds, MaxPolicySeconds},
		{"idle_cpu_percent", p.IdleCPUPercent, MaxIdleCPUPercent}, {"idle_bytes_per_minute", p.IdleBytesPerMinute, MaxIdleBytesPerMinute},
		{"quiet_connection_seconds", p.QuietConnectionSeconds, MaxPolicySeconds}} {
		if f.n < 0 || f.n > f.max {
			return Errorf(KindInvalid, "%s %d is not in 0..%d", f.name, f.n, f.max)
		}
	}
	return nil
}

// Publish makes a port of a gateway pool reachable on an address of the host.
// Host with port 0 means: choose a free port once and keep it.
type Publish struct {
	Host  netip.AddrPort `json:"host"`
	Guest int            `json:"guest"` // the port in the gateway guest
	// ProxyFrom are the sources, as CIDRs with commas between them, whose connections
	// begin with a PROXY protocol v2 header that names their client; empty: none does.
	ProxyFrom string `json:"proxy_from,omitempty"`
}

// MaxProxyFrom bounds the sources of one published port.
const MaxProxyFrom = 32

// String returns HOST:PORT:GUEST, and its sources of PROXY headers, as `--publish` and
// manifests write it.
func (p Publish) String() string {
	s := p.Place()
	if p.ProxyFrom != "" {
		s += proxyFrom + strings.ReplaceAll(p.ProxyFrom, ",", proxyFrom)
	}
	return s
}

// proxyFrom comes before each source in a Publish's text.
const proxyFrom = ",proxy-from="

// Place returns HOST:PORT:GUEST alone.
func (p Publish) Place() string { return fmt.Sprintf("%s:%d", p.Host, p.Guest) }

// ProxySources returns the sources of ProxyFrom. They are written as they are meant, with
// no bit beyond the prefix.
func (p Publish) ProxySources() ([]netip.Prefix, error) {
	if p.ProxyFrom == "" {
		return nil, nil
	}
	list := strings.Split(p.ProxyFrom, ",")
	if len(list) > MaxProxyFrom {
		return nil, Errorf(KindInvalid, "publish %s: %d sources of PROXY headers are more than %d", p.Place(), len(list), MaxProxyFrom)
	}
	out := make([]netip.Prefix, len(list))
	for n, text := range list {
		cidr, err := netip.ParsePrefix(text)
		if err != nil || cidr != cidr.Masked() || cidr.Addr().Is4In6() {
			return nil, Errorf(KindInvalid, "publish %s: source %q of PROXY headers is not a CIDR", p.Place(), clip(text)).
				WithFix("give the load balancer's network or address, such as 192.0.2.0/24 or 192.0.2.7/32")
		}
		out[n] = cidr
	}
	return out, nil
}

// ParsePublish reads "HOST:PORT:GUEST", "PORT:GUEST" or "GUEST", and ",proxy-from=CIDR"
// after it, as often as there are sources; the host defaults to 127.0.0.1 and the port
// to 0.
func ParsePublish(s string) (Publish, error) {
	place, rest, proxied := strings.Cut(s, proxyFrom)
	p, err := parsePlace(place)
	if err != nil || !proxied {
		return p, err
	}
	p.ProxyFrom = strings.ReplaceAll(rest, proxyFrom, ",")
	if p.ProxyFrom == "" {
		p.ProxyFrom = "," // which is no source either
	}
	_, err = p.ProxySources()
	return p, err
}

func parsePlace(s string) (Publish, error) {
	bad := func(part, what string) error {
		return Errorf(KindInvalid, "publish %q: %s %q is not a port in 1..65535", clip(s), part, clip(what)).
			WithFix("use [[HOST:]PORT:]GUEST, such as 8080:80 or [::1]:8080:80")
	}
	where, guest := "", s
	if n := strings.LastIndexByte(s, ':'); n >= 0 {
		where, guest = s[:n], s[n+1:]
	}
	g, err := strconv.ParseUint(guest, 10, 16)
	if err != nil || g == 0 {
		return Publish{}, bad("the guest's port", guest)
	}
	host, port := "127.0.0.1", "0"
	if n := strings.LastIndexByte(where, ':'); n >= 0 {
		host, port = where[:n], where[n+1:]
	} else if where != "" {
		port = where
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return Publish{}, bad("the host's port", port)
	}
	bare, inBrackets := strings.CutPrefix(host, "[")
	if inBrackets {
		bare, inBrackets = strings.CutSuffix(bare, "]")
	}
	ip, err := netip.ParseAddr(bare)
	if err != nil || ip.Is6() != inBrackets {
		return Publish{}, Errorf(KindInvalid, "publish %q: %q is not an IP address", clip(s), clip(host)).
			WithFix("use an address such as 127.0.0.1, 0.0.0.0 or, in brackets, [::1]")
	}
	return Publish{Host: netip.AddrPortFrom(ip, uint16(n)), Guest: int(g)}, nil
}

// PoolSpec is what a user may say of a pool.
type PoolSpec struct {
	ID        string        `json:"id"`
	Role      Role          `json:"role"`
	Profile   string        `json:"profile"`
	Flake     string        `json:"flake"` // image reference, formats.md section 3
	Resources Resources     `json:"resources"`
	Desired   Counts        `json:"desired"`
	Policy    RuntimePolicy `json:"policy"`
	Limits    Limits        `json:"limits,omitzero"`
	Pinned    bool          `json:"pinned,omitempty"`
	Critical  bool          `json:"critical,omitempty"`
	// Routes is the routing table that the pool's guests get when its role is gateway.
	Routes *RoutingTable `json:"routes,omitempty"`
	// Channels are chats whose messages the pool's gateway delivers to workers.
	Channels []Channel `json:"channels,omitempty"`
	// Publish lists the ports of a gateway pool that the host serves.
	Publish []Publish `json:"publish,omitempty"`
	// SecretScopes limit which secrets the pool's guests get; empty: all, flat.
	SecretScopes []SecretScope `json:"secret_scopes,omitempty"`
	// Env is given to the services of the image. Not for secrets.
	Env map[string]string `json:"env,omitempty"`
	// Integrations are checkpointed before a sleep (formats.md section 6).
	Integrations []Integration `json:"integrations,omitempty"`
	// WakeCatchUp says what becomes of wakes that were missed; empty: CatchUpOnce.
	WakeCatchUp CatchUp `json:"wake_catch_up,omitempty"`
	// Egress are private destinations that the guests may reach (package egress). Peers:
	// instances of one user reach others of the tenant, not its gateways alone.
	Egress []string `json:"egress,omitempty"`
	Peers  bool     `json:"peers,omitempty"`
}

// SecretScope gives a pool the listed keys of an integration, at
// /run/secrets/<integration>/<KEY>.
type SecretScope struct {
	Integration string   `json:"integration"`
	Keys        []string `json:"keys"`
}

// Bounds of lists in a PoolSpec.
const (
	MaxEnv          = 64
	MaxEnvBytes     = 32 << 10
	MaxScopes       = 64
	MaxPublish      = 32
	MaxIntegrations = 32
)

// Same reports whether the specs say the same. Empty and missing lists are the same.
func (s PoolSpec) Same(o PoolSpec) bool {
	a, errA := json.Marshal(s)
	b, errB := json.Marshal(o)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// Validate checks the whole spec.
func (s PoolSpec) Validate() error {
	if err := ValidateName("pool", s.ID); err != nil {
		return err
	}
	for _, check := range []func() error{
		s.validateKind, s.Resources.Validate, s.Desired.Validate, s.Policy.Validate, s.validateRoutes,
		s.validateScopes, s.validateEnv, s.validateIntegrations, s.validateChannels, s.WakeCatchUp.Validate,
	} {
		if err := check(); err != nil {
			return Errorf(KindOf(err), "pool %s: %w", s.ID, err)
		}
	}
	return nil
}

func (s PoolSpec) validateKind() error {
	if !s.Role.Valid() {
		return Errorf(KindInvalid, "role %q is not one of gateway, builder, worker, capability-imessage", clip(string(s.Role)))
	}
	if err := ValidateName("profile", s.Profile); err != nil {
		return err
	}
	return ValidateFlake(s.Flake)
}

// ValidateFlake checks the form of an image reference: not empty, at most 512
// bytes of printable ASCII without space. Whether it can be built is the image
// store's to say.
func ValidateFlake(ref string) error {
	if ref == "" || len(ref) > 512 {
		return Errorf(KindInvalid, "image reference %q must have 1 to 512 bytes", clip(ref))
	}
	for i := range len(ref) {
		if ref[i] <= ' ' || ref[i] > '~' {
			return Errorf(KindInvalid, "image reference %q has a character that is not printable ASCII", clip(ref))
		}
	}
	return nil
}

func (s PoolSpec) validateRoutes() error {
	if s.Role != RoleGateway && (s.Routes != nil || len(s.Publish) > 0) {
		return Errorf(KindInvalid, "routes and publish are for pools with role gateway, not %s", s.Role)
	}
	if len(s.Publish) > MaxPublish {
		return Errorf(KindInvalid, "%d published ports are more than %d", len(s.Publish), MaxPublish)
	}
	for _, p := range s.Publish {
		if p.Guest < 1 || p.Guest > 65535 || !p.Host.IsValid() {
			return Errorf(KindInvalid, "publish %s is not valid", p)
		}
		if _, err := p.ProxySources(); err != nil {
			return err
		}
	}
	if s.Routes != nil {
		return s.Routes.Validate()
	}
	return nil
}

func (s PoolSpec) validateScopes() error {
	if len(s.SecretScopes) > MaxScopes {
		return Errorf(KindInvalid, "%d secret scopes are more than %d", len(s.SecretScopes), MaxScopes)
	}
	for _, sc := range s.SecretScopes {
		if err := ValidateName("integration", sc.Integration); err != nil {
			return err
		}
		for _, k := range sc.Keys {
			if err := ValidateSecretName(k); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s PoolSpec) validateEnv() error {
	total := 0
	for k, v := range s.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(v, 0) {
			return Errorf(KindInvalid, "env %q is not a valid name and value", clip(k))
		}
		total += len(k) + len(v)
	}
	if len(s.Env) > MaxEnv || total > MaxEnvBytes {
		return Errorf(KindInvalid, "env has more than %d entries or %d bytes", MaxEnv, MaxEnvBytes)
	}
	return nil
}

func (s PoolSpec) validateIntegrations() error {
	if len(s.Integrations) > MaxIntegrations {
		return Errorf(KindInvalid, "%d integrations are more than %d", len(s.Integrations), MaxIntegrations)
	}
	seen := map[string]bool{}
	for _, i := range s.Integrations {
		if err := i.validate(); err != nil {
			return err
		}
		if seen[i.Name] {
			return Errorf(KindInvalid, "integration %q is given twice", i.Name)
		}
		seen[i.Name] = true
	}
	return nil
}

// Pool is a PoolSpec that the agent has, with what it knows of it.
type Pool struct {
	Tenant  string    `json:"tenant"`
	Spec    PoolSpec  `json:"spec"`
	Created time.Time `json:"created"`
	// Builds are the pool's images, newest first; new instances start from the first.
	Builds []Build `json:"builds,omitempty"`
	// Destroying: the pool is on its way out; no instance is made in it any more.
	Destroying bool `json:"destroying,omitempty"`
	// Bound are the host addresses that Publish got; same order as Spec.Publish.
	Bound []netip.AddrPort `json:"bound,omitempty"`
	// Problem says what keeps the pool from being as it should; empty: nothing does.
	Problem string `json:"problem,omitempty"`
	// Unpublished says why ports of Publish, those with a zero address in Bound, are not
	// served; empty: all are.
	Unpublished string `json:"unpublished,omitempty"`
	// Instances are how many instances there are in each state. They are told, not kept.
	Instances map[State]int `json:"instances,omitempty"`
	// InForce are the limits of an instance of the pool's size: the tenant's ceilings lower the
	// pool's own. They are told, not kept.
	InForce Limits `json:"limits_in_force,omitzero"`
	// Warnings say what is in force and should not stay as it is. They are told, not kept.
	Warnings []string `json:"warnings,omitempty"`
	// Health counts how its running instances are. It is observed, not kept.
	Health   *PoolHealth `json:"health,omitempty"`
	Building string      `json:"building,omitempty"` // id of the build that it waits for; told, not kept
}

// Build is an image made for a pool.
type Build struct {
	ID     string    `json:"id"`
	Flake  string    `json:"flake"`
	Digest string    `json:"digest"` // "sha256:" and 64 hex digits
	Built  time.Time `json:"built"`
	// Role and Profile are those of the pool at that time; "" in builds of an older mvm.
	Role    Role   `json:"role,omitempty"`
	Profile string `json:"profile,omitempty"`
}

// Of reports whether the build is one of what the pool asks for now.
func (b Build) Of(s PoolSpec) bool {
	return b.Flake == s.Flake && (b.Role == "" || b.Role == s.Role) && (b.Profile == "" || b.Profile == s.Profile)
}

// Address returns the pool's address.
func (p Pool) Address() Address { return Address{Tenant: p.Tenant, Pool: p.Spec.ID} }
