// Package session is how people look into instances: commands, files, logs of services and
// the console. It carries streams between them and guests, and records who looked.
package session

import (
	"context"
	"net"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/sys"
)

// VMM is a virtual machine. Two of an instance are never equal.
type VMM interface {
	Done() <-chan struct{}
}

// Guests are the instances of the host and their guests.
type Guests interface {
	// Instance finds the one that the address names.
	Instance(ctx context.Context, at mvm.Address) (mvm.Instance, error)
	// VMM is the instance's, nil where it has none.
	VMM(id string) VMM
	// Dial connects to the instance's guest agent.
	Dial(ctx context.Context, id string) (net.Conn, error)
	// Stalled says why the instance's VM stands still; "": it does not.
	Stalled(id string) string
	// Status asks the guest how its services are.
	Status(ctx context.Context, i mvm.Instance) (guestproto.Status, error)
	// Use notes that a command begins in the instance, until done is called.
	Use(id string) (done func())
	// InFolder calls fn with the instance's folder, held open.
	InFolder(id, what string, fn func(*sys.Folder) error) error
	// FlushLog has what the guest logged so far written to its folder.
	FlushLog(id string)
}

// Journal records who looked.
type Journal interface{ Record(mvm.Event) }

// Options are what sessions are made of. All of them are required.
type Options struct {
	Guests  Guests
	Journal Journal
	// Console is the name of the console's log in an instance's folder.
	Console string
	// Call bounds one request to a guest.
	Call time.Duration
}

// Sessions carries streams. All methods may be called concurrently.
type Sessions struct {
	opt  Options
	life context.Context
}

// New makes sessions. What follows a log ends with life.
func New(life context.Context, opt Options) *Sessions { return &Sessions{opt: opt, life: life} }
