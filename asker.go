package mvm

import (
	"context"
	"strings"
)

// Asker is who asked for something: a kind, and which one of that kind. Records, the audit
// log, the API and the command line have it as text, KIND or KIND:ID: "cli:root",
// "gateway:i-0a0b0c0d", "reconcile".
type Asker struct {
	Kind AskerKind
	ID   string // empty where there is only one of the kind
}

// AskerKind is what kind of asker it is. Kinds that this version does not know are askers
// too: see OnDemand.
type AskerKind string

// The kinds.
const (
	AskerCLI     AskerKind = "cli"     // a person at this host, by user name
	AskerAPI     AskerKind = "api"     // a client at another machine, by the name in its certificate
	AskerGateway AskerKind = "gateway" // requests that arrived at a gateway, by its instance
	AskerPublish AskerKind = "publish" // connections to a published port, by host address
	AskerChannel AskerKind = "channel" // a message of a chat, by the channel's name
	AskerGuest   AskerKind = "guest"   // what a guest itself wants of the host, by instance
	AskerTimer   AskerKind = "timer"   // the next wake that a workload asked for, by its instance
	// AskerPolicy is the policy for idle instances: what it makes warm or puts to sleep is
	// Parked.
	AskerPolicy AskerKind = "policy"
	// AskerReconcile is the loop that keeps the host at what its pools ask for.
	AskerReconcile AskerKind = "reconcile"
	// AskerAgent is the agent, which finishes what was cut off and notes what ended.
	AskerAgent   AskerKind = "agent"
	AskerUnknown AskerKind = "unknown" // nobody said who
)

// Person reports whether somebody asked by hand: at this host, or through the API from
// another.
func (k AskerKind) Person() bool { return k == AskerCLI || k == AskerAPI }

// OnDemand reports whether the kind asks because someone uses the instance now: a request, a
// connection, and every kind that is neither a person, nor the host itself, nor unknown.
// Only the idle policy puts to rest what such an asker woke. A new kind of waker needs no
// line here.
func (k AskerKind) OnDemand() bool {
	switch k {
	case AskerPolicy, AskerReconcile, AskerAgent, AskerUnknown, "":
		return false
	}
	return !k.Person()
}

// ParseAsker reads what String wrote. It takes any text, and String returns it unchanged: a
// text that has no id after a colon is a kind.
func ParseAsker(text string) Asker {
	if kind, id, _ := strings.Cut(text, ":"); id != "" {
		return Asker{AskerKind(kind), id}
	}
	return Asker{Kind: AskerKind(text)}
}

// String returns KIND:ID, or KIND where there is no id.
func (a Asker) String() string {
	if a.ID == "" {
		return string(a.Kind)
	}
	return string(a.Kind) + ":" + a.ID
}

// MarshalText is String.
func (a Asker) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText is ParseAsker.
func (a *Asker) UnmarshalText(text []byte) error {
	*a = ParseAsker(string(text))
	return nil
}

type askerKey struct{}

// WithAsker says in the context who asks.
func WithAsker(ctx context.Context, a Asker) context.Context {
	return context.WithValue(ctx, askerKey{}, a)
}

// AskerFrom returns who asks, AskerUnknown where nobody said.
func AskerFrom(ctx context.Context) Asker {
	if a, ok := ctx.Value(askerKey{}).(Asker); ok {
		return a
	}
	return Asker{Kind: AskerUnknown}
}
