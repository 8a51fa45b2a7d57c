package wire

import (
	"time"

	"mvm"
)

// Health is mvm.Health on the wire.
type Health struct {
	Status   mvm.HealthStatus `json:"status"`
	Since    time.Time        `json:"since"`
	Services []ServiceHealth  `json:"services,omitempty"`
	Channels []ChannelHealth  `json:"channels,omitempty"`
}

// Of returns the noun on the wire.
func (Health) Of(n mvm.Health) Health {
	return Health{
		Status: n.Status, Since: n.Since, Services: each(n.Services, ServiceHealth{}.Of), Channels: each(n.Channels, ChannelHealth{}.Of),
	}
}

// Noun returns the noun.
func (w Health) Noun() mvm.Health {
	return mvm.Health{
		Status: w.Status, Since: w.Since, Services: each(w.Services, ServiceHealth.Noun), Channels: each(w.Channels, ChannelHealth.Noun),
	}
}

// ChannelHealth is mvm.ChannelHealth on the wire.
type ChannelHealth struct {
	Name   string           `json:"name"`
	Kind   mvm.ChannelKind  `json:"kind"`
	Status mvm.HealthStatus `json:"status"`
	Detail string           `json:"detail,omitempty"`
	Bot    string           `json:"bot,omitempty"`

	Waiting int       `json:"waiting,omitempty"`
	Oldest  time.Time `json:"oldest,omitzero"`
}

// Of returns the noun on the wire, and Noun the noun.
func (ChannelHealth) Of(n mvm.ChannelHealth) ChannelHealth { return ChannelHealth(n) }
func (w ChannelHealth) Noun() mvm.ChannelHealth            { return mvm.ChannelHealth(w) }

// Backlog is mvm.Backlog on the wire.
type Backlog struct {
	Waiting  int       `json:"waiting"`
	Oldest   time.Time `json:"oldest"`
	Channels []string  `json:"channels"`
}

// Of returns the noun on the wire, and Noun the noun.
func (Backlog) Of(n mvm.Backlog) Backlog { return Backlog(n) }
func (w Backlog) Noun() mvm.Backlog      { return mvm.Backlog(w) }

// ServiceHealth is mvm.ServiceHealth on the wire.
type ServiceHealth struct {
	Name     string `json:"name"`
	State    string `json:"state"`
	Failing  bool   `json:"failing,omitempty"`
	ExitCode *int   `json:"exit_code,omitempty"`
	Restarts int    `json:"restarts"`
	Fails    int    `json:"fails,omitempty"`
	Detail   string `json:"detail,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (ServiceHealth) Of(n mvm.ServiceHealth) ServiceHealth { return ServiceHealth(n) }
func (w ServiceHealth) Noun() mvm.ServiceHealth            { return mvm.ServiceHealth(w) }

// PoolHealth is mvm.PoolHealth on the wire.
type PoolHealth struct {
	Ready    int      `json:"ready"`
	Starting int      `json:"starting"`
	Failing  int      `json:"failing"`
	Stalled  int      `json:"stalled"`
	Unknown  int      `json:"unknown"`
	Troubles []string `json:"troubles,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (PoolHealth) Of(n mvm.PoolHealth) PoolHealth { return PoolHealth(n) }
func (w PoolHealth) Noun() mvm.PoolHealth         { return mvm.PoolHealth(w) }
