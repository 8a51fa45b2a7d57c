package agent

import (
	"io"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/driver"
	"mvm/internal/live"
)

// followed is what live VMMs ask of the agent.
type followed struct{ a *Agent }

var (
	_ live.Ingress = followed{}
	_ live.Watcher = followed{}
)

// Listen implements live.Ingress.
func (f followed) Listen(i mvm.Instance) (io.Closer, error) {
	ln, err := f.a.ingress.Listen(i)
	if err != nil {
		return nil, err // not a nil listener in the interface
	}
	return ln, nil
}

// VMMEnded implements live.Ingress.
func (f followed) VMMEnded(id string) { f.a.ingress.VMMEnded(id) }

// Began implements live.Watcher.
func (f followed) Began() { f.a.idle.Poke() }

// Ended implements live.Watcher: the instance is stopped.
func (f followed) Ended(id string, v *live.VMM) {
	why := howEnded(v.Driver().Exit())
	f.a.log.Warn("vmm ended by itself", "instance", id, "why", why)
	if i, err := f.a.Instance(f.a.ctx, mvm.Address{Instance: id}); err == nil {
		f.a.reconciler.Lost(i)
		f.a.ingress.GoneSoon(i)
	}
	if _, err := f.a.enqueue(id, request{op: mvm.OpStop, by: byAgent(), why: why, ended: v}); err != nil {
		f.a.log.Error("stop instance after its vmm ended", "instance", id, "error", err)
	}
}

// howEnded says how a VMM ended that nobody ended.
func howEnded(e driver.Exit) string {
	switch {
	case e.Panic != "":
		return "its guest's kernel panicked: " + display.Clip(e.Panic)
	case e.Guest && e.Detail == "guest-reset":
		return "its guest reset itself"
	case e.Guest:
		return "its guest powered itself off"
	}
	return "its VMM ended: " + e.Detail
}
