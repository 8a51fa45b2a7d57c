package lifecycle

import (
	"mvm"
	"mvm/internal/display"
	"mvm/internal/driver"
)

// Ended says that the instance's VMM ended by itself: the instance is stopped.
func (l *Lifecycle) Ended(id string, v VMM) {
	why := howEnded(v.Driver().Exit())
	l.log.Warn("vmm ended by itself", "instance", id, "why", why)
	if i, err := l.instance(id); err == nil {
		l.opt.Reconcile.Lost(i)
		l.opt.Ingress.GoneSoon(i)
	}
	if _, err := l.Enqueue(id, Request{Op: mvm.OpStop, By: byAgent(), Why: why, Ended: v}); err != nil {
		l.log.Error("stop instance after its vmm ended", "instance", id, "error", err)
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
