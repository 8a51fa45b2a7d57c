// Package guestproto defines what host and guest say to each other: frames, the
// messages of ports 52 (host asks guest) and 53 (guest asks host), and the preface
// of the multiplexed virtio-serial channel. It imports the standard library and
// the nouns only, so that the guest agent stays small.
//
// A frame is a 4-byte big-endian length and that many bytes of JSON, at most
// MaxFrame. Messages are externally tagged: a variant without fields is its name
// as a JSON string, one with fields is an object with one key. formats.md section
// 4 fixes the original variants; the ones marked "extension" are mvm's own.
//
// Everything that comes from a guest is hostile: readers bound the size before
// they allocate and callers set a deadline on the connection.
package guestproto

import (
	"encoding/json"
	"net/netip"
	"time"

	"mvm"
)

// The ports of the guest channel.
const (
	GuestPort = 52 // the guest agent listens, the host asks
	HostPort  = 53 // the host listens, the guest asks
)

// MaxFrame bounds the JSON of one frame, in bytes.
const MaxFrame = 256 << 10

// Request is a message of port 52. Exactly one field is set: a bool for a
// variant without fields, else a pointer to its fields. Response, HostRequest and
// HostResponse are made the same way.
type Request struct {
	Ping                   bool // "Ping"
	WorkerStatus           bool // "WorkerStatus"
	Wake                   bool // "Wake"
	IntegrationStatus      bool // "IntegrationStatus"
	SleepPrep              *SleepPrep
	CheckpointIntegrations *CheckpointIntegrations

	// Extensions.
	Configure   *Configure // at boot and at every wake
	AdjustClock *AdjustClock
	Status      bool // "Status": the workload's readiness, polled while starting
	Shutdown    *Shutdown
	Exec        *Exec  // the connection becomes an exec stream
	Copy        *Copy  // as Exec, with a stream of package filecopy as stdin or stdout
	Logs        *Logs  // the connection becomes a stream of LogLine
	Fence       *Fence // to gateways: an instance goes to sleep or is gone
	Peers       bool   // "Peers", to gateways: which instances they have connections to
	Suspend     *Suspend
	Settle      bool // "Settle"
	Preflight   bool // "Preflight": whether the workload may get a message now
	Sync        bool // "Sync": what the workload has written is made durable
	Inbox       *Inbox

	CheckChannels bool // "CheckChannels", to gateways: how their channels are
	CallHost      bool // "CallHost": whether the guest reaches its host, for tests of VMMs
}

// Response answers a Request. Exactly one field is set.
type Response struct {
	Pong                    bool // "Pong"
	WorkerStatus            *WorkerStatus
	SleepPrepAck            *SleepPrepAck
	WakeAck                 *WakeAck
	IntegrationStatusReport *IntegrationStatusReport
	CheckpointResult        *CheckpointResult
	Error                   *Error

	// Extensions.
	ConfigureAck *ConfigureAck
	ClockAck     *ClockAck
	Status       *Status
	ShutdownAck  *Ack
	ExecStarted  *ExecStarted
	LogLine      *LogLine
	LogEnd       bool // "LogEnd"
	FenceAck     *FenceAck
	Peers        *Peers
	SuspendAck   *SuspendAck
	SettleAck    *SettleAck
	PreflightAck *PreflightAck
	SyncAck      *Ack
	InboxReport  *InboxReport

	ChannelChecks *ChannelChecks
	CallHostAck   *Ack
}

// HostRequest is a message of port 53, from a guest. Tenant ids in it are only
// compared with the socket's tenant, never trusted.
type HostRequest struct {
	WakeInstance        *InstanceName
	QueryInstanceStatus *InstanceName

	// Extensions, for gateways only.
	Acquire        *Acquire // choose or make an instance and have it awake
	ReportActivity *ReportActivity
	// Preflight and SyncInstance ask the guest of an instance that a channel leads to.
	Preflight      *InstanceName
	SyncInstance   *SyncInstance
	ReportMessages *ReportMessages

	// Extension, of every role: how its services are, when that changed.
	ReportHealth *Status
}

// HostResponse answers a HostRequest.
type HostResponse struct {
	WakeResult     *Ack
	InstanceStatus *InstanceStatus
	Error          *Error

	// Extensions.
	AcquireResult *AcquireResult
	ActivityAck   bool // "ActivityAck"
	HealthAck     bool // "HealthAck"
	PreflightAck  *PreflightAck
	SyncAck       *Ack
	MessagesAck   bool // "MessagesAck"
}

// Error says that a request could not be done.
type Error struct {
	Message string `json:"message"`
}

// Ack is a result with a reason.
type Ack struct {
	Success bool    `json:"success"`
	Detail  *string `json:"detail"`
}

// WakeAck answers "Wake".
type WakeAck struct {
	Success bool `json:"success"`
}

// WorkerStatus says whether the workload is "idle" or "busy".
type WorkerStatus struct {
	Status     string     `json:"status"`
	LastBusyAt *time.Time `json:"last_busy_at"`
	// Reason says what is busy, for people; empty when idle. Extension.
	Reason string `json:"reason,omitempty"`
}

// SleepPrep asks the guest to drain: finish what runs, sync disks.
type SleepPrep struct {
	DrainTimeoutSecs int `json:"drain_timeout_secs"`

	RequestID string `json:"request_id,omitempty"` // see Request.WithID
}

// SleepPrepAck answers SleepPrep.
type SleepPrepAck struct {
	Success bool    `json:"success"`
	Detail  *string `json:"detail"`
	// NextWake is when the workload wants to be awake next; zero: it does not say. Extension.
	NextWake time.Time `json:"next_wake,omitzero"`
}

// IntegrationStatusReport answers "IntegrationStatus".
type IntegrationStatusReport struct {
	Integrations []IntegrationState `json:"integrations"`
}

// IntegrationState is one integration's state. Status is "active", "paused",
// "pending" or {"error":"…"}.
type IntegrationState struct {
	Name             string          `json:"name"`
	Status           json.RawMessage `json:"status"`
	LastCheckpointAt *time.Time      `json:"last_checkpoint_at"`
	StateSizeBytes   int64           `json:"state_size_bytes"`
	// Image: a service of the image that can hold still, not one of the pool's.
	Image bool `json:"image,omitempty"`
}

// CheckpointIntegrations asks for the named checkpoints to be made.
type CheckpointIntegrations struct {
	Integrations []string `json:"integrations"`

	RequestID string `json:"request_id,omitempty"` // see Request.WithID
}

// CheckpointResult answers CheckpointIntegrations.
type CheckpointResult struct {
	Success bool     `json:"success"`
	Failed  []string `json:"failed"`
	Detail  *string  `json:"detail"`
}

// Configure gives the guest all that it is and has. It is sent after boot and
// after every restore, before any traffic is let in; applying it twice is the same
// as once. Order in the guest: clock, entropy, network, secrets, the rest.
type Configure struct {
	Reason       string            `json:"reason"` // "boot", "wake" or "update" (no clock, no entropy)
	UnixNanos    int64             `json:"unix_nanos,omitempty"`
	Entropy      []byte            `json:"entropy,omitempty"` // at least 32 bytes at boot and wake
	TenantID     string            `json:"tenant_id"`
	PoolID       string            `json:"pool_id"`
	InstanceID   string            `json:"instance_id"`
	Role         mvm.Role          `json:"role"`
	Key          string            `json:"key,omitempty"`
	Hostname     string            `json:"hostname"`
	Net          *Net              `json:"net,omitempty"`
	Generation   int               `json:"secrets_generation"`
	Secrets      map[string][]byte `json:"secrets,omitempty"` // path below /run/secrets -> value
	Env          map[string]string `json:"env,omitempty"`
	Integrations []mvm.Integration `json:"integrations,omitempty"`
	Routes       *mvm.RoutingTable `json:"routes,omitempty"`
	// RouteKeys are the secrets that verify tokens of the routes, by name.
	RouteKeys map[string][]byte `json:"route_keys,omitempty"`
	// Channels are those of a gateway's pool.
	Channels []Channel `json:"channels,omitempty"`
	// ListenPorts are the ports on which a gateway takes connections from its host
	// with a PROXY protocol v2 header; see docs/adr.
	ListenPorts []int `json:"listen_ports,omitempty"`
	// Gateways are the addresses of the tenant's gateways, from which requests come.
	Gateways []netip.Addr `json:"gateways,omitempty"`
	// Digest names all of this but time and entropy; a Resume with the same Digest
	// asks for nothing else.
	Digest []byte `json:"digest,omitempty"`

	RequestID string `json:"request_id,omitempty"` // see Request.WithID
}

// Net is the guest's only network interface.
type Net struct {
	MAC     string       `json:"mac"`
	Address netip.Prefix `json:"address"` // address with the subnet's length
	Gateway netip.Addr   `json:"gateway"`
	DNS     []netip.Addr `json:"dns,omitempty"`
	MTU     int          `json:"mtu,omitempty"` // 0: leave
}

// ConfigureAck says that all of a Configure is in force.
type ConfigureAck struct {
	Success    bool    `json:"success"`
	Detail     *string `json:"detail"` // the first thing that failed
	Generation int     `json:"secrets_generation"`
	// UnixNanos is the guest's clock when it wrote the answer.
	UnixNanos int64 `json:"unix_nanos"`
	// BootID is the guest kernel's random boot id: the same after a wake.
	BootID string `json:"boot_id"`
	// Suspends: the image has services that can hold still; see Suspend. Settling: some
	// are still to be told to go on, or of new secrets; see SettleAck.
	Suspends bool `json:"suspends,omitempty"`
	Settling bool `json:"settling,omitempty"`
}

// AdjustClock steps the guest's clock by the offset; 0 asks for the time only.
type AdjustClock struct {
	OffsetNanos int64 `json:"offset_nanos"`
}

// ClockAck answers AdjustClock with the guest's clock after the step.
type ClockAck struct {
	UnixNanos int64 `json:"unix_nanos"`
}

// Status answers "Status".
type Status struct {
	Ready    bool            `json:"ready"` // configured and every service ready
	Detail   string          `json:"detail,omitempty"`
	Services []ServiceStatus `json:"services"`
	// ActiveRequests counts a gateway's requests and connections under way.
	ActiveRequests int     `json:"active_requests"`
	UptimeSecs     float64 `json:"uptime_secs"`
	// Version grows with every Status of a boot: of two the greater is the newer. 0: the
	// guest is of an older mvm, which has no ReportHealth.
	Version uint64 `json:"version,omitempty"`
	// Channels are those of a gateway.
	Channels []ChannelStatus `json:"channels,omitempty"`
	// NextWake is when the workload wants to be awake next; zero: it does not say.
	NextWake time.Time `json:"next_wake,omitzero"`
}

// ServiceStatus is one service of the image.
type ServiceStatus struct {
	Name     string `json:"name"`
	State    string `json:"state"` // "starting", "ready", "failed", "backoff", "stopped", "done"
	PID      int    `json:"pid"`
	Restarts int    `json:"restarts"`
	Detail   string `json:"detail,omitempty"`
	// ExitCode is that of its last run that ended by itself, or 128+signal; nil: none did.
	ExitCode *int `json:"exit_code,omitempty"`
	// Fails counts its last runs that failed in a row: that ended within a minute, or
	// before they were ready.
	Fails int `json:"fails,omitempty"`
}

// Shutdown asks for an orderly poweroff: services get SIGTERM, then SIGKILL after
// the grace, disks are synced and unmounted.
type Shutdown struct {
	GraceSecs int `json:"grace_secs"`

	RequestID string `json:"request_id,omitempty"` // see Request.WithID
}

// Exec runs a command. After ExecStarted both sides send ExecFrame values until
// one with Exit is sent by the guest.
type Exec struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env,omitempty"`
	Dir  string   `json:"dir,omitempty"`
	User string   `json:"user,omitempty"` // default root
	TTY  bool     `json:"tty,omitempty"`
	Rows uint16   `json:"rows,omitempty"`
	Cols uint16   `json:"cols,omitempty"`

	RequestID string `json:"request_id,omitempty"` // see Request.WithID
}

// Copy has a file or folder sent as stdout or, with In, received as stdin. The frames are
// those of Exec; the exit code is 0, 3 where a path is not there, or 1, with the reason on
// stderr.
type Copy struct {
	Path   string `json:"path"` // absolute
	In     bool   `json:"in,omitempty"`
	Name   string `json:"name,omitempty"`   // of what is received
	Follow bool   `json:"follow,omitempty"` // where Path is a symlink, what it leads to is sent
	Owners bool   `json:"owners,omitempty"` // who owned what is received owns it here
	User   string `json:"user,omitempty"`   // owns all that is received

	RequestID string `json:"request_id,omitempty"` // see Request.WithID
}

// ExecStarted says that the command runs.
type ExecStarted struct {
	PID int `json:"pid"`
}

// MaxExecData bounds the data of one ExecFrame, in bytes.
const MaxExecData = 32 << 10

// ExecFrame carries one piece of an exec stream. Exactly one field is set: no
// empty data.
type ExecFrame struct {
	Stdin      []byte  `json:"stdin,omitempty"`
	CloseStdin bool    `json:"close_stdin,omitempty"`
	Stdout     []byte  `json:"stdout,omitempty"`
	Stderr     []byte  `json:"stderr,omitempty"`
	Resize     *Resize `json:"resize,omitempty"`
	Signal     int     `json:"signal,omitempty"`
	Exit       *Exit   `json:"exit,omitempty"`
}

// Resize is a terminal's new size.
type Resize struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// Exit ends an exec stream. Code is the exit code, or 128+signal.
type Exit struct {
	Code   int    `json:"code"`
	Detail string `json:"detail,omitempty"`
}

// Logs asks for the logs of a service (empty: all of them).
type Logs struct {
	Service string `json:"service,omitempty"`
	Tail    int    `json:"tail,omitempty"` // last lines first; 0: all that is kept
	Follow  bool   `json:"follow,omitempty"`
	// After leaves out the lines up to this number. Guests before it came have no numbers
	// and leave out nothing.
	After uint64 `json:"after,omitempty"`
}

// MaxLogText bounds the text of a LogLine.
const MaxLogText = 16 << 10

// LogLine is one line. Seq counts all lines of the guest from 1, whatever service they
// are of: a gap is lines that the guest does not keep any more.
type LogLine struct {
	Seq     uint64    `json:"seq,omitempty"`
	Time    time.Time `json:"time"`
	Service string    `json:"service"`
	Stream  string    `json:"stream"` // "stdout", "stderr" or "mvm" for the guest agent's own
	Text    string    `json:"text"`
}

// Fence tells a gateway that the instance is about to sleep: it forgets that the
// instance is awake, and asks the host before it sends anything to it. With Gone the
// memory of the boots up to Boot is lost, and with it the other end of every connection
// to them: the gateway ends those at once.
type Fence struct {
	InstanceID string     `json:"instance_id"`
	IP         netip.Addr `json:"ip"`
	Boot       int        `json:"boot,omitempty"`
	Gone       bool       `json:"gone,omitempty"`

	RequestID string `json:"request_id,omitempty"` // see Request.WithID
}

// FenceAck counts the gateway's requests to that instance that are under way, and
// streams that carried bytes just now; Open counts streams that are quiet as well.
type FenceAck struct {
	ActiveRequests int       `json:"active_requests"`
	Open           int       `json:"open,omitempty"`
	LastActive     time.Time `json:"last_active,omitzero"` // last bytes to or from it
}

// MaxPeers bounds the instances of one Peers.
const MaxPeers = 1024

// Peers answers "Peers" with the instances to which the gateway has connections, at most
// MaxPeers of them.
type Peers struct {
	Instances []Peer `json:"instances"`
}

// Peer is one boot of an instance.
type Peer struct {
	InstanceID string `json:"instance_id"`
	Boot       int    `json:"boot"`
}

// InstanceName names an instance in a host-bound request.
type InstanceName struct {
	TenantID   string `json:"tenant_id"`
	PoolID     string `json:"pool_id"`
	InstanceID string `json:"instance_id"`

	RequestID string `json:"request_id,omitempty"` // see Request.WithID
}

// SyncInstance has what the workload of an instance has written made durable, unless it has
// booted anew since: then what was written before may be gone.
type SyncInstance struct {
	InstanceName
	Boot int `json:"boot"`
}

// InstanceStatus answers QueryInstanceStatus.
type InstanceStatus struct {
	Status  mvm.State  `json:"status"`
	GuestIP netip.Addr `json:"guest_ip"`
	Boot    int        `json:"boot,omitempty"` // see Lease of Acquire
}

// NotThere is in the answer to a request that names an instance which is not the tenant's, or
// is gone.
const NotThere = "is not there"

// Acquire asks for an awake instance of a pool. With Key: that key's own, made on
// first use within the quota. With IP or InstanceID: that one; a connection that is open
// has its own instance awake again by InstanceID. With none of them: any; Spread asks
// for every instance that is awake, so that the gateway can choose one for each request. The host answers when it is awake and its gate open.
type Acquire struct {
	TenantID string     `json:"tenant_id"`
	PoolID   string     `json:"pool_id"`
	Key      string     `json:"key,omitempty"`
	IP       netip.Addr `json:"ip,omitzero"`
	Spread   bool       `json:"spread,omitempty"`
	// InstanceID goes with no Key or Spread. With IP the instance has that address too.
	InstanceID string `json:"instance_id,omitempty"`
	// Source is the address of the client that named the key, where nobody vouches for
	// it. A gateway that sends it also says when the instance answered; see Activity.
	Source netip.Addr `json:"source,omitzero"`
	// Channel is the channel of the gateway whose message it is for.
	Channel string `json:"channel,omitempty"`

	RequestID string `json:"request_id,omitempty"` // see Request.WithID
}

// AcquireResult answers Acquire. On failure Retry says after how many seconds a
// new try may help (0: it will not).
type AcquireResult struct {
	Success   bool    `json:"success"`
	Detail    *string `json:"detail"`
	Instances []Awake `json:"instances,omitempty"`
	RetrySecs int     `json:"retry_secs,omitempty"`
	// Limited: the client's source asks for too many new keys.
	Limited bool `json:"limited,omitempty"`
	// Failing: the instance runs, and a service of it does not come up.
	Failing bool `json:"failing,omitempty"`
}

// Awake is an instance that takes traffic. Boot counts its boots from disk: a connection
// to an earlier one is dead, and one that began before a sleep goes on.
type Awake struct {
	InstanceID string     `json:"instance_id"`
	IP         netip.Addr `json:"ip"`
	Boot       int        `json:"boot,omitempty"`
}

// ReportActivity tells the host how busy instances are, by what passes the gateway.
type ReportActivity struct {
	Instances []Activity `json:"instances"`
}

// Activity is one instance's. Connections counts requests under way and streams that
// carried bytes just now; Open counts streams that are quiet as well.
type Activity struct {
	InstanceID  string    `json:"instance_id"`
	Boot        int       `json:"boot,omitempty"` // as in Awake
	Connections int       `json:"connections"`
	Open        int       `json:"open,omitempty"`
	LastActive  time.Time `json:"last_active"`
	// Answered: since the gateway knows of the instance it answered a request with success.
	Answered bool `json:"answered,omitempty"`
}
