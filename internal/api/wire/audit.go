package wire

import (
	"time"

	"mvm"
)

// Event is mvm.Event on the wire.
type Event struct {
	Seq      uint64     `json:"seq"`
	Time     time.Time  `json:"time"`
	Action   mvm.Action `json:"action"`
	Tenant   string     `json:"tenant,omitempty"`
	Pool     string     `json:"pool,omitempty"`
	Instance string     `json:"instance,omitempty"`
	By       mvm.Asker  `json:"by"`
	Why      string     `json:"why,omitempty"`
	Detail   string     `json:"detail,omitempty"`
	Request  string     `json:"request,omitempty"`
	Hash     string     `json:"hash,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (Event) Of(n mvm.Event) Event { return Event(n) }
func (w Event) Noun() mvm.Event    { return mvm.Event(w) }

// AuditReport is mvm.AuditReport on the wire.
type AuditReport struct {
	Intact        bool         `json:"intact"`
	Entries       uint64       `json:"entries"`
	First         uint64       `json:"first"`
	Last          uint64       `json:"last"`
	Oldest        time.Time    `json:"oldest,omitzero"`
	Head          string       `json:"head"`
	SealChecked   bool         `json:"seal_checked"`
	ExpectTrimmed bool         `json:"expect_trimmed,omitempty"`
	Breaks        []AuditBreak `json:"breaks,omitempty"`
	BreakCount    int          `json:"break_count"`
}

// Of returns the noun on the wire.
func (AuditReport) Of(n mvm.AuditReport) AuditReport {
	return AuditReport{
		Intact: n.Intact, Entries: n.Entries, First: n.First, Last: n.Last, Oldest: n.Oldest, Head: n.Head, SealChecked: n.SealChecked,
		ExpectTrimmed: n.ExpectTrimmed, Breaks: each(n.Breaks, AuditBreak{}.Of), BreakCount: n.BreakCount,
	}
}

// Noun returns the noun.
func (w AuditReport) Noun() mvm.AuditReport {
	return mvm.AuditReport{
		Intact: w.Intact, Entries: w.Entries, First: w.First, Last: w.Last, Oldest: w.Oldest, Head: w.Head, SealChecked: w.SealChecked,
		ExpectTrimmed: w.ExpectTrimmed, Breaks: each(w.Breaks, AuditBreak.Noun), BreakCount: w.BreakCount,
	}
}

// AuditBreak is mvm.AuditBreak on the wire.
type AuditBreak struct {
	Seq  uint64 `json:"seq"`
	What string `json:"what"`
}

// Of returns the noun on the wire, and Noun the noun.
func (AuditBreak) Of(n mvm.AuditBreak) AuditBreak { return AuditBreak(n) }
func (w AuditBreak) Noun() mvm.AuditBreak         { return mvm.AuditBreak(w) }
