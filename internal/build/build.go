// Package build has the noun of the same name: the making of an image for pools of a tenant, and
// how it is going. It does no I/O.
package build

import (
	"regexp"
	"time"

	"mvm"
)

// State is how far a build is.
type State string

// The states of a build. The last three are final.
const (
	Queued    State = "queued"    // it waits for its turn, or for another build of the same image
	Resolving State = "resolving" // what the reference names now is looked up
	Building  State = "building"
	Done      State = "done"
	Failed    State = "failed"
	Canceled  State = "cancelled"
)

// States are all that there are.
func States() []State { return []State{Queued, Resolving, Building, Done, Failed, Canceled} }

// Ended reports whether the state is final.
func (s State) Ended() bool { return s == Done || s == Failed || s == Canceled }

// Run is one build. It belongs to a tenant, whoever asked for it, and goes on when they are gone.
type Run struct {
	ID     string `json:"id"` // "b-" and 8 hex digits; a pool's build that it made has the same id
	Tenant string `json:"tenant"`
	// Pools are those of the tenant that wait for it, or got its image.
	Pools   []string `json:"pools"`
	Ref     string   `json:"ref"` // reference of the image, as the pools give it
	Role    mvm.Role `json:"role"`
	Profile string   `json:"profile"`
	State   State    `json:"state"`
	// By is who asked first, with the id of the request where there was one.
	By      mvm.Asker `json:"by"`
	Request string    `json:"request,omitempty"`
	// Created is when it was asked for, Began when the state became building (zero: the image was
	// there already), and Ended when the state became final.
	Created time.Time `json:"created"`
	Began   time.Time `json:"began,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	// Step is the last that it said.
	Step string `json:"step,omitempty"`
	// Image is the digest of what was made.
	Image string `json:"image,omitempty"`
	// Error says why it failed or who cancelled it, Kind is the kind of that, and Fix says what to
	// do about it.
	Error string   `json:"error,omitempty"`
	Kind  mvm.Kind `json:"kind,omitempty"`
	Fix   string   `json:"fix,omitempty"`
	// Tries counts the tries of reconcile before this one that failed, in a row. They are not kept.
	Tries int `json:"tries,omitempty"`
}

// Err is why the build has not made an image; nil: it has, or may still. request is the id of the
// request that asks.
func (r Run) Err(request string) error {
	if r.State != Failed && r.State != Canceled {
		return nil
	}
	return &mvm.Error{Kind: r.Kind, Text: "build " + r.ID + " of " + r.Ref + ": " + r.Error, Fix: r.Fix, Request: request}
}

// NotFound is the error of a build that is not there.
func NotFound(id string) error {
	return mvm.Errorf(mvm.KindNotFound, "build %s does not exist", id).
		WithFix("`mvm builds` lists them; of those that ended only the last ones are kept")
}

// Took is how long the build took, or has taken so far.
func (r Run) Took(now time.Time) time.Duration {
	if r.State.Ended() {
		now = r.Ended
	}
	return max(0, now.Sub(r.Created))
}

// absolute finds absolute paths: at the begin of a word, or after the scheme of a reference.
var absolute = regexp.MustCompile(`(^|[\s"'` + "`" + `(\[=,;]|\b[a-z][a-z-]*:)/[^/\s"'` + "`" + `)\],;:][^\s"'` + "`" + `)\],;:]*`)

// HiddenPath is what clients of tenants see in place of a path.
const HiddenPath = "[path]"

// WithoutPaths hides the absolute paths in a text, for clients that must not learn of the host's
// files. URLs stay.
func WithoutPaths(text string) string {
	return absolute.ReplaceAllString(text, "${1}"+HiddenPath)
}

// WithoutPaths returns the build as a client of its tenant sees it.
func (r Run) WithoutPaths() Run {
	r.Ref, r.Step, r.Error, r.Fix = WithoutPaths(r.Ref), WithoutPaths(r.Step), WithoutPaths(r.Error), WithoutPaths(r.Fix)
	return r
}
