package mvm

import (
	"errors"
	"fmt"
)

// Kind classifies an error by what its receiver can do about it. It is a wire
// value (API) and decides the CLI's exit code.
type Kind string

// The kinds of errors.
const (
	KindInternal    Kind = "internal"    // a fault of mvm or its host: exit 1
	KindInvalid     Kind = "invalid"     // the request can never succeed as it is: exit 2
	KindNotFound    Kind = "not_found"   // the thing named does not exist: exit 3
	KindExists      Kind = "exists"      // a thing of that name is there already: exit 4
	KindQuota       Kind = "quota"       // refused by a quota: exit 4
	KindPolicy      Kind = "policy"      // refused by a policy or role: exit 4
	KindState       Kind = "state"       // refused by the thing's present state: exit 4
	KindLeftAlone   Kind = "left_alone"  // not all is done: a person changed an instance, which is left alone for a while: exit 6
	KindUnavailable Kind = "unavailable" // not now: the agent or a peer does not answer: exit 5, and 1 where the agent says so of another
	KindTimeout     Kind = "timeout"     // a deadline passed: exit 1
	KindCanceled    Kind = "canceled"    // the asker gave up: exit 130
)

// Error is an error with a kind. Its text says what was tried and on what; Fix,
// where set, says what to do.
type Error struct {
	Kind Kind
	Text string // what was tried, on what, and the cause
	Fix  string
	// Request is the id of the request that failed, where the error is another process's.
	Request string
	// Away: the agent itself could not take or finish what it was asked for: it shuts down,
	// or has too much to do. See ErrAway.
	Away bool
	Err  error // the cause, for errors.Is and errors.As; may be nil
}

// Error returns the text and the fix in one line; the text includes the cause.
func (e *Error) Error() string {
	s := e.Text
	if e.Fix != "" {
		s += " (" + e.Fix + ")"
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ErrAway is in errors.Is of whatever failed because the agent itself shuts down or has
// too much to do.
var ErrAway = errors.New("the agent is away")

// Is implements errors.Is for ErrAway.
func (e *Error) Is(target error) bool { return e.Away && target == ErrAway }

// Away makes an error that is ErrAway, of KindUnavailable.
func Away(format string, args ...any) *Error {
	e := Errorf(KindUnavailable, format, args...)
	e.Away = true
	return e
}

// Errorf makes an Error of the kind; %w in the format keeps its cause reachable.
func Errorf(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Text: err.Error(), Err: errors.Unwrap(err)}
}

// WithFix returns a copy of e that says what to do about it.
func (e *Error) WithFix(format string, args ...any) *Error {
	c := *e
	c.Fix = fmt.Sprintf(format, args...)
	return &c
}

// Explain says what was tried. The kind of err and its fix stay; nil stays nil.
func Explain(what string, err error) error {
	if err == nil {
		return nil
	}
	e := Errorf(KindOf(err), "%s: %w", what, err)
	var cause *Error
	if errors.As(err, &cause) {
		e.Text, e.Fix = what+": "+cause.Text, cause.Fix
	}
	return e
}

// KindOf returns the kind of the first Error in err's chain, and KindInternal
// when there is none. A nil error has the empty kind.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindInternal
}

// IsKind reports whether err has the kind.
func IsKind(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }

// hostFault is an error whose text is for the host's own people.
type hostFault struct{ error }

func (e hostFault) Unwrap() error { return e.error }

// HostFault says that the host lacks something: the text of err is for its own people, and
// guests and their clients are not told.
func HostFault(err error) error { return hostFault{err} }

// IsHostFault reports whether err comes of a HostFault.
func IsHostFault(err error) bool { return errors.As(err, &hostFault{}) }
