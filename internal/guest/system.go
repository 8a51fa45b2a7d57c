package guest

import (
	"time"

	"mvm/internal/guestproto"
)

// System is what the guest agent does to its kernel. Each method is one named
// operation, so that a test can fail exactly one. They may be called concurrently.
type System interface {
	// SetClock sets the wall clock.
	SetClock(t time.Time) error
	// StepClock steps the wall clock, in one operation.
	StepClock(by time.Duration) error
	// AddEntropy credits the bytes to the kernel's random number generator and makes it
	// use them at once.
	AddEntropy(b []byte) error
	// BootID is the kernel's random boot id.
	BootID() (string, error)
	// SetHostname sets the host name and makes it resolve.
	SetHostname(name string) error
	// SetNetwork gives the only network interface exactly this configuration; it is
	// idempotent.
	SetNetwork(n guestproto.Net) error
	// Announce tells the neighbours of the network where this machine is. It comes
	// after the answer to a Configure: nothing needs it, but it saves a question to
	// who talks to this machine first.
	Announce() error
	// HoldsSecrets checks that the folder's file system is in memory.
	HoldsSecrets(dir string) error
	// Uptime is the time since the kernel started.
	Uptime() (time.Duration, error)
	// Sync writes all that is dirty to the disks.
	Sync()
	// SyncFolder makes what was written to the folder's file system durable.
	SyncFolder(dir string) error
	// PowerOff unmounts what can be and powers the machine off. It returns only when
	// that failed, or where the guest agent is not PID 1 and has only asked for it.
	PowerOff() error
}
