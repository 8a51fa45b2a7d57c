package wire

import (
	"encoding/json"

	"mvm"
)

// ReconcileRequest is mvm.ReconcileRequest on the wire.
type ReconcileRequest struct {
	State  json.RawMessage `json:"state,omitempty"`
	Tenant string          `json:"tenant,omitempty"`
	Dry    bool            `json:"dry,omitempty"`
	Keep   bool            `json:"keep,omitempty"`
	Forget bool            `json:"forget,omitempty"`
	NoWait bool            `json:"no_wait,omitempty"`
	Force  bool            `json:"force,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (ReconcileRequest) Of(n mvm.ReconcileRequest) ReconcileRequest { return ReconcileRequest(n) }
func (w ReconcileRequest) Noun() mvm.ReconcileRequest               { return mvm.ReconcileRequest(w) }
