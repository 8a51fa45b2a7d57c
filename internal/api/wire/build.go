package wire

import (
	"time"

	"mvm"
	"mvm/internal/build"
)

// BuildRun is build.Run on the wire.
type BuildRun struct {
	ID      string      `json:"id"`
	Tenant  string      `json:"tenant"`
	Pools   []string    `json:"pools"`
	Ref     string      `json:"ref"`
	Role    mvm.Role    `json:"role"`
	Profile string      `json:"profile"`
	State   build.State `json:"state"`
	By      mvm.Asker   `json:"by"`
	Request string      `json:"request,omitempty"`
	Created time.Time   `json:"created"`
	Began   time.Time   `json:"began,omitzero"`
	Ended   time.Time   `json:"ended,omitzero"`
	Step    string      `json:"step,omitempty"`
	Image   string      `json:"image,omitempty"`
	Error   string      `json:"error,omitempty"`
	Kind    mvm.Kind    `json:"kind,omitempty"`
	Fix     string      `json:"fix,omitempty"`
	Tries   int         `json:"tries,omitempty"`
}

// Of returns the noun on the wire, and Noun the noun.
func (BuildRun) Of(n build.Run) BuildRun { return BuildRun(n) }
func (w BuildRun) Noun() build.Run       { return build.Run(w) }
