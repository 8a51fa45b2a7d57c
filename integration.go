package mvm

import "time"

// Time limits of an integration's commands.
const (
	DefaultIntegrationTimeout = 60 * time.Second
	MaxIntegrationTimeout     = 600 * time.Second
)

// Integration is a piece of the workload with state of its own.
type Integration struct {
	Name          string `json:"name"`
	CheckpointCmd string `json:"checkpoint_cmd"`
	RestoreCmd    string `json:"restore_cmd"`
	Critical      bool   `json:"critical"`
	// TimeoutSeconds bounds each of the commands, 1..600; 0 is the default of 60.
	TimeoutSeconds int `json:"timeout_seconds,omitempty"`
}

// Timeout is how long one of the commands may take.
func (i Integration) Timeout() time.Duration {
	if i.TimeoutSeconds <= 0 {
		return DefaultIntegrationTimeout
	}
	return min(time.Duration(i.TimeoutSeconds)*time.Second, MaxIntegrationTimeout)
}

// validate checks one integration by itself.
func (i Integration) validate() error {
	if err := ValidateName("integration", i.Name); err != nil {
		return err
	}
	if len(i.CheckpointCmd) > 4096 || len(i.RestoreCmd) > 4096 {
		return Errorf(KindInvalid, "integration %q: a command is longer than 4096 bytes", i.Name)
	}
	if most := int(MaxIntegrationTimeout / time.Second); i.TimeoutSeconds < 0 || i.TimeoutSeconds > most {
		return Errorf(KindInvalid, "integration %q: timeout_seconds %d is not in 0..%d", i.Name, i.TimeoutSeconds, most)
	}
	return nil
}

// How an integration is, as the guest said last.
const (
	IntegrationPending = "pending" // nothing was done with it since the boot
	IntegrationActive  = "active"  // it works
	IntegrationPaused  = "paused"  // it was checkpointed and not restored yet
	IntegrationError   = "error"   // its last command failed
)

// IntegrationState is how an integration of an instance is.
type IntegrationState struct {
	Name     string `json:"name"`
	Status   string `json:"status"`
	Error    string `json:"error,omitempty"` // why, with status "error"
	Critical bool   `json:"critical,omitempty"`
	// Image: it is not the pool's but a service of the image, which holds still before
	// the machine stands still.
	Image            bool      `json:"image,omitempty"`
	LastCheckpointAt time.Time `json:"last_checkpoint_at,omitzero"`
	StateBytes       int64     `json:"state_size_bytes"`
}
