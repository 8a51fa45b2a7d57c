package mvm

import "time"

// SecretInfo tells of a secret without telling its value.
type SecretInfo struct {
	Name string `json:"name"`
	// Generation of the tenant's secrets with which this one got its present value.
	Generation int       `json:"generation"`
	SetAt      time.Time `json:"set_at"`
	Bytes      int       `json:"bytes"`
}
