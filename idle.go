package mvm

import "time"

// IdleStatus says how idle an instance in memory is, and what the policy makes of it.
// An instance is idle when every signal says so.
type IdleStatus struct {
	// Awake is why it stays awake: a signal by name, or the rule that keeps it. Empty when
	// it is idle and only its time has not come, and when it is on its way to rest.
	Awake string `json:"awake_because,omitempty"`
	// Since is when it became idle; zero when it is not.
	Since   time.Time    `json:"idle_since,omitzero"`
	Signals []IdleSignal `json:"signals,omitempty"`
	// Measured is when the signals were last looked at.
	Measured time.Time `json:"measured,omitzero"`
	// Decision is what the policy decided last: "stay", "defer", "warm" or "sleep", and
	// Reason why.
	Decision string `json:"decision"`
	Reason   string `json:"reason"`
}

// IdleSignal is one thing by which an instance counts as in use or as idle.
type IdleSignal struct {
	Name string `json:"name"` // "connections", "exec", "published", "guest", "cpu", "bytes"
	Busy bool   `json:"busy"`
	Text string `json:"text"` // what was seen, such as "cpu 12% over the last minute"
}
