package wire

import (
	"time"

	"mvm"
)

// IdleStatus is mvm.IdleStatus on the wire.
type IdleStatus struct {
	Awake    string       `json:"awake_because,omitempty"`
	Since    time.Time    `json:"idle_since,omitzero"`
	Signals  []IdleSignal `json:"signals,omitempty"`
	Measured time.Time    `json:"measured,omitzero"`
	Decision string       `json:"decision"`
	Reason   string       `json:"reason"`
}

// Of returns the noun on the wire.
func (IdleStatus) Of(n mvm.IdleStatus) IdleStatus {
	return IdleStatus{
		Awake: n.Awake, Since: n.Since, Signals: each(n.Signals, IdleSignal{}.Of), Measured: n.Measured, Decision: n.Decision, Reason: n.Reason,
	}
}

// Noun returns the noun.
func (w IdleStatus) Noun() mvm.IdleStatus {
	return mvm.IdleStatus{
		Awake: w.Awake, Since: w.Since, Signals: each(w.Signals, IdleSignal.Noun), Measured: w.Measured, Decision: w.Decision, Reason: w.Reason,
	}
}

// IdleSignal is mvm.IdleSignal on the wire.
type IdleSignal struct {
	Name string `json:"name"`
	Busy bool   `json:"busy"`
	Text string `json:"text"`
}

// Of returns the noun on the wire, and Noun the noun.
func (IdleSignal) Of(n mvm.IdleSignal) IdleSignal { return IdleSignal(n) }
func (w IdleSignal) Noun() mvm.IdleSignal         { return mvm.IdleSignal(w) }
