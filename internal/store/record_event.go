package store

import (
	"time"

	"mvm"
)

// Records of the audit log.

type eventRecord struct {
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

func recordOfEvent(v mvm.Event) eventRecord { return eventRecord(v) }

func (r eventRecord) noun() mvm.Event { return mvm.Event(r) }
