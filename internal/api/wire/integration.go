package wire

import (
	"time"

	"mvm"
)

// Integration is mvm.Integration on the wire.
type Integration struct {
	Name           string `json:"name"`
	CheckpointCmd  string `json:"checkpoint_cmd"`
	RestoreCmd     string `json:"restore_cmd"`
	Critical       bool   `json:"critical"`
	TimeoutSeconds int    `json:"timeout_seconds,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (Integration) Of(n mvm.Integration) Integration { return Integration(n) }
func (w Integration) Noun() mvm.Integration          { return mvm.Integration(w) }

// IntegrationState is mvm.IntegrationState on the wire.
type IntegrationState struct {
	Name             string    `json:"name"`
	Status           string    `json:"status"`
	Error            string    `json:"error,omitempty"`
	Critical         bool      `json:"critical,omitempty"`
	Image            bool      `json:"image,omitempty"`
	LastCheckpointAt time.Time `json:"last_checkpoint_at,omitzero"`
	StateBytes       int64     `json:"state_size_bytes"`
}

// Of returns the noun on the wire, and Noun the noun.
func (IntegrationState) Of(n mvm.IntegrationState) IntegrationState { return IntegrationState(n) }
func (w IntegrationState) Noun() mvm.IntegrationState               { return mvm.IntegrationState(w) }
