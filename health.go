package mvm

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// HealthStatus says in one word how the services of a running instance are.
type HealthStatus string

// The words. Starting: not every service is ready yet, and none fails. Failing: one has
// failed, and its guest starts it again after a pause, or not at all.
const (
	HealthStarting HealthStatus = "starting"
	HealthReady    HealthStatus = "ready"
	HealthFailing  HealthStatus = "failing"
)

// CrashLoop is the number of runs in a row that failed with which a service counts as not
// coming up: who waits for it waits no longer.
const CrashLoop = 3

// Health says how the services of a running instance are. It is what its guest reports,
// kept in memory and not stored.
type Health struct {
	Status   HealthStatus    `json:"status"`
	Since    time.Time       `json:"since"`
	Services []ServiceHealth `json:"services,omitempty"`
	// Channels are those of a gateway. They are no cause for Status: its routes work.
	Channels []ChannelHealth `json:"channels,omitempty"`
}

// ChannelHealth says how a channel of a gateway is.
type ChannelHealth struct {
	Name string      `json:"name"`
	Kind ChannelKind `json:"kind"`
	// Status is as that of Health.
	Status HealthStatus `json:"status"`
	Detail string       `json:"detail,omitempty"` // why, where it fails
	Bot    string       `json:"bot,omitempty"`    // its name on the platform
	// Waiting counts messages that are not delivered yet, where the oldest has waited for
	// more than a minute, since Oldest.
	Waiting int       `json:"waiting,omitempty"`
	Oldest  time.Time `json:"oldest,omitzero"`
}

// Text says how the channel is, for people.
func (c ChannelHealth) Text() string {
	how := string(c.Kind)
	if c.Bot != "" {
		how += " " + c.Bot
	}
	how += ", " + string(c.Status)
	if c.Detail != "" {
		how += " (" + c.Detail + ")"
	}
	return how
}

// Backlog counts the messages of chats that wait for an instance, where the oldest has waited
// for more than a minute.
type Backlog struct {
	Waiting  int       `json:"waiting"`
	Oldest   time.Time `json:"oldest"`
	Channels []string  `json:"channels"` // of the tenant's gateways
}

// Text says how many messages wait, for people; "" for none.
func (b *Backlog) Text() string {
	if b == nil {
		return ""
	}
	return waitText(b.Waiting, b.Oldest, " in channel "+strings.Join(b.Channels, ", "))
}

// waitText says how many messages wait, for people.
func waitText(n int, oldest time.Time, where string) string {
	what := "1 message waits"
	if n != 1 {
		what = strconv.Itoa(n) + " messages wait"
	}
	return what + where + ", the oldest since " + oldest.Local().Format(time.DateTime)
}

// ChannelTroubles names the channels that fail, and those whose messages wait for long, for
// people; "" where there is none.
func (h *Health) ChannelTroubles() string {
	if h == nil {
		return ""
	}
	var parts []string
	for _, c := range h.Channels {
		if c.Status == HealthFailing {
			parts = append(parts, "channel "+c.Name+" is "+c.Text())
		}
		if c.Waiting > 0 {
			parts = append(parts, "channel "+c.Name+": "+waitText(c.Waiting, c.Oldest, ""))
		}
	}
	return strings.Join(parts, ", ")
}

// Waiting counts the messages of all channels that wait for long.
func (h *Health) Waiting() (n int) {
	for _, c := range h.Channels {
		n += c.Waiting
	}
	return n
}

// ServiceHealth says how one service is.
type ServiceHealth struct {
	Name string `json:"name"`
	// State is "starting", "ready", "failed", "backoff", "stopped" or "done".
	State    string `json:"state"`
	Failing  bool   `json:"failing,omitempty"`
	ExitCode *int   `json:"exit_code,omitempty"` // of the last run that ended by itself
	Restarts int    `json:"restarts"`
	// Fails counts the last runs in a row that failed.
	Fails int `json:"fails,omitempty"`
	// Detail says why it is not ready, or what of it does not work where it is.
	Detail string `json:"detail,omitempty"`
}

// GivesUp reports that waiting for the service is no use: it is not started again, or
// fails again and again.
func (s ServiceHealth) GivesUp() bool { return s.State == "failed" || s.Fails >= CrashLoop && !s.Up() }

// Up reports that the service is as it should be now.
func (s ServiceHealth) Up() bool { return s.State == "ready" || s.State == "done" }

// Text says how the service is, for people.
func (s ServiceHealth) Text() string {
	how := s.State
	if s.Failing {
		how = "failing"
		if s.Detail == "" && s.ExitCode != nil {
			how += fmt.Sprintf(" (exited with code %d)", *s.ExitCode)
		}
	}
	if s.Detail != "" {
		how += " (" + s.Detail + ")"
	}
	switch {
	case s.Restarts == 1:
		how += ", 1 restart"
	case s.Restarts > 1:
		how += fmt.Sprintf(", %d restarts", s.Restarts)
	}
	return how
}

// Worst returns the service that matters most: one that gives up, else one that fails,
// else one that is not ready; nil where there is none of these.
func (h *Health) Worst() *ServiceHealth {
	if h == nil {
		return nil
	}
	var worst *ServiceHealth
	rank := 0
	for n := range h.Services {
		s, r := &h.Services[n], 0
		switch {
		case s.GivesUp():
			r = 3
		case s.Failing:
			r = 2
		case !s.Up():
			r = 1
		}
		if r > rank {
			worst, rank = s, r
		}
	}
	return worst
}

// Text names the services that fail, are not ready or work in part, for people; "" where
// there is none.
func (h *Health) Text() string {
	if h == nil {
		return ""
	}
	var parts []string
	for _, s := range h.Services {
		if s.Failing || h.Status != HealthFailing && (!s.Up() || s.Detail != "") {
			parts = append(parts, "service "+s.Name+" is "+s.Text())
		}
	}
	return strings.Join(parts, ", ")
}

// Trouble says what of an instance that is ready does not work; "" for nothing.
func (h *Health) Trouble() string {
	parts := []string{h.Text(), h.ChannelTroubles()}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ", ")
}

// PoolHealth counts the running instances of a pool by how they are.
type PoolHealth struct {
	Ready    int `json:"ready"`
	Starting int `json:"starting"`
	Failing  int `json:"failing"`
	Stalled  int `json:"stalled"` // the VM stands still
	Unknown  int `json:"unknown"` // the guest does not tell
	// Troubles says of the first ones that fail or stand still what is wrong.
	Troubles []string `json:"troubles,omitempty"`
}

// maxTroubles bounds PoolHealth.Troubles.
const maxTroubles = 8

// Add counts an instance that runs.
func (p *PoolHealth) Add(i Instance) {
	trouble := ""
	switch {
	case i.Stalled != "":
		p.Stalled++
		trouble = i.Stalled
	case i.Health == nil:
		p.Unknown++
	case i.Health.Status == HealthReady:
		p.Ready++
		trouble = i.Health.Trouble()
	case i.Health.Status == HealthStarting:
		p.Starting++
	default:
		p.Failing++
		trouble = i.Health.Text()
	}
	if trouble != "" && len(p.Troubles) < maxTroubles {
		p.Troubles = append(p.Troubles, i.ID+": "+trouble)
	}
}

// Text says the counts, for people.
func (p *PoolHealth) Text() string {
	var parts []string
	for _, c := range []struct {
		n    int
		what string
	}{{p.Ready, "ready"}, {p.Starting, "starting"}, {p.Failing, "failing"}, {p.Stalled, "standing still"}, {p.Unknown, "not known"}} {
		if c.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	return strings.Join(parts, ", ")
}
