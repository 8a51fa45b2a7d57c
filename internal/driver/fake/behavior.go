package fake

import (
	"slices"
	"time"

	"mvm/internal/guestproto"
)

// Behavior says how a guest behaves. The zero value behaves well, at once.
type Behavior struct {
	// Boot is the time from Start until the guest answers the channel; Dial waits.
	Boot time.Duration `json:"boot_ns,omitempty"`
	// ReadyAfter is the time from the first Configure until Status says ready.
	ReadyAfter time.Duration `json:"ready_after_ns,omitempty"`
	NeverReady bool          `json:"never_ready,omitempty"`
	// Services, where given, are what Status says of its services, and Log what their logs
	// end with. It is ready when all of them are "ready" or "done".
	Services []guestproto.ServiceStatus `json:"services,omitempty"`
	Log      []string                   `json:"log,omitempty"`
	// NoHealth: it is of an mvm that numbers no Status and counts no failures.
	NoHealth bool `json:"no_health,omitempty"`
	// Channels are what it says of its channels, in Status and when it is to check them.
	Channels []guestproto.ChannelCheck `json:"channels,omitempty"`
	// Stalled: its VM stands still, for this reason.
	Stalled    string    `json:"stalled,omitempty"`
	Busy       bool      `json:"busy,omitempty"`            // WorkerStatus
	BusyReason string    `json:"busy_reason,omitempty"`     // in WorkerStatus
	Active     int       `json:"active_requests,omitempty"` // Status and FenceAck
	Open       int       `json:"open,omitempty"`            // FenceAck: with streams that are quiet
	LastActive time.Time `json:"last_active,omitzero"`      // FenceAck
	// CPUPercent, of one CPU, and BytesPerMinute are what the VMM uses; 0: 1 % and nothing.
	CPUPercent     int `json:"cpu_percent,omitempty"`
	BytesPerMinute int `json:"bytes_per_minute,omitempty"`

	// How it answers wrongly. Only restricts these to the requests of those names
	// ("Ping", "SleepPrep", …); empty: all of them.
	Only      []string      `json:"only,omitempty"`
	Delay     time.Duration `json:"delay_ns,omitempty"`  // before the answer
	Silent    bool          `json:"silent,omitempty"`    // never answers
	Garbage   bool          `json:"garbage,omitempty"`   // a frame that is no JSON
	Oversized bool          `json:"oversized,omitempty"` // a frame above the limit
	Truncated bool          `json:"truncated,omitempty"` // half a frame, then the end
	WrongType bool          `json:"wrong_type,omitempty"`
	Refuse    string        `json:"refuse,omitempty"`   // {"Error":{"message":…}}
	Crash     bool          `json:"crash,omitempty"`    // the VMM dies instead
	Poweroff  bool          `json:"poweroff,omitempty"` // the guest powers off instead
	Panic     string        `json:"panic,omitempty"`    // the guest's kernel panics instead, with this

	// NoChannel: the guest never comes up on the channel; Dial gets no stream.
	NoChannel bool `json:"no_channel,omitempty"`
	// Answers that say no, with the detail.
	NackConfigure string `json:"nack_configure,omitempty"`
	NackSleepPrep string `json:"nack_sleep_prep,omitempty"`
	// NextWake is when the workload says that it wants to be awake next.
	NextWake     time.Time `json:"next_wake,omitzero"`
	NackWake     bool      `json:"nack_wake,omitempty"`
	NackShutdown string    `json:"nack_shutdown,omitempty"`
	FailedSaves  []string  `json:"failed_checkpoints,omitempty"` // integrations whose checkpoint fails
	// Suspends: it has a service that can hold still, which the reason keeps from it.
	Suspends    bool          `json:"suspends,omitempty"`
	SuspendBusy string        `json:"suspend_busy,omitempty"`
	Lease       time.Duration `json:"lease_ns,omitempty"` // for which it holds still; 0: until it is told
	// Untold: it takes changed secrets, and its service could not be told, as this says.
	Untold string `json:"untold,omitempty"`
	// ClockError is added to the clock that a ConfigureAck reports.
	ClockError time.Duration `json:"clock_error_ns,omitempty"`
	// StaleSecrets: a ConfigureAck reports the generation before.
	StaleSecrets bool `json:"stale_secrets,omitempty"`

	IgnorePowerdown bool `json:"ignore_powerdown,omitempty"`
	IgnoreShutdown  bool `json:"ignore_shutdown,omitempty"` // acks and stays
	DieOnPause      bool `json:"die_on_pause,omitempty"`    // the VMM dies while it is paused
	DieOnResume     bool `json:"die_on_resume,omitempty"`
}

// applies reports whether the misbehaviour is meant for the request.
func (b Behavior) applies(request string) bool {
	return len(b.Only) == 0 || slices.Contains(b.Only, request)
}
