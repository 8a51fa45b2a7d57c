package fake

import (
	"bytes"
	"time"

	"mvm"
	"mvm/internal/guestproto"
)

// Guest is what a simulation sees of a guest, from outside the channel.
type Guest struct {
	State  State
	BootID string
	// Gated: it was configured since its vCPUs began to run, by a boot or a resume.
	Gated      bool
	Generation int // of the secrets that it has
	// Held: its service was asked to hold still and not told to go on.
	Held bool
	// Config is what it was configured with last, without secrets; nil: it was not.
	Config *guestproto.Configure
	Clock  time.Time // what it takes for the time of day
}

// OnRequest has fn called before a guest acts on a request of its channel, in the
// goroutine of the stream and with no lock held; fn may block. Call it before there
// are VMMs.
func (h *Host) OnRequest(fn func(id, request string)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.onRequest = fn
}

func (h *Host) requested(id, request string) {
	h.mu.Lock()
	fn := h.onRequest
	h.mu.Unlock()
	if fn != nil {
		fn(id, request)
	}
}

// Guest returns the instance's guest, false when it has no VMM.
func (h *Host) Guest(id string) (Guest, bool) {
	m := h.lookup(id)
	if m == nil {
		return Guest{}, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	g := Guest{State: m.state, BootID: m.guest.BootID, Gated: m.guest.Gated, Held: m.guest.Held, Clock: m.guest.now().Round(0)}
	if m.guest.Config != nil {
		g.Generation = m.guest.Config.Generation
		c := *m.guest.Config
		g.Config = &c
	}
	return g, true
}

// Write replaces a file of the instance's guest at once, as a program in it does:
// below /data it is on the disk, elsewhere in memory. KindState when the guest does
// not run.
func (h *Host) Write(id, path string, b []byte) error {
	m := h.lookup(id)
	if m == nil {
		return mvm.Errorf(mvm.KindState, "write in guest %s: it has no VMM", id)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state != Running {
		return mvm.Errorf(mvm.KindState, "write in guest %s: it is %s", id, m.state)
	}
	where, err := m.write(path, bytes.Clone(b))
	if err == nil && where == onDisk {
		err = m.saveDisk()
	}
	if err == nil {
		err = m.save()
	}
	return err
}

// Read returns a file of the instance's guest, running or paused, and whether there
// is one.
func (h *Host) Read(id, path string) ([]byte, bool) {
	m := h.lookup(id)
	if m == nil {
		return nil, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.read(path)
	return bytes.Clone(b), ok
}
