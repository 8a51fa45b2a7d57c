package guestproto

// Suspend asks that the services of the image that can hold still do so before the
// machine stands still: that they finish what they have begun, within the time, and
// begin nothing new. Asking again renews what they hold.
type Suspend struct {
	DrainTimeoutSecs int `json:"drain_timeout_secs"`

	RequestID string `json:"request_id,omitempty"` // see Request.WithID
}

// SuspendAck answers Suspend. Without Success none of them holds still.
type SuspendAck struct {
	Success bool    `json:"success"`
	Detail  *string `json:"detail"` // what is still going on
	// LeaseMS is the time, in milliseconds, for which they hold still; 0: until they are told.
	LeaseMS int64 `json:"lease_ms,omitempty"`
}

// SettleAck answers "Settle", which waits until every service goes on again and was
// told of the secrets in force. Success false says which could not be.
type SettleAck struct {
	Success bool    `json:"success"`
	Detail  *string `json:"detail"`
}
