package agent

import (
	"context"
	"io"

	"mvm"
	"mvm/internal/lifecycle"
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

// Ended implements live.Watcher.
func (f followed) Ended(id string, v *live.VMM) { f.a.lifecycle.Ended(id, v) }

// vmms are the live ones, as operations ask for them.
type vmms struct {
	*live.VMMs
	a *Agent
}

var _ lifecycle.VMMs = vmms{}

// Of implements lifecycle.VMMs.
func (v vmms) Of(id string) lifecycle.VMM {
	if l := v.VMMs.Of(id); l != nil {
		return l // not a nil VMM in the interface
	}
	return nil
}

// Release implements lifecycle.VMMs.
func (v vmms) Release(ctx context.Context, i mvm.Instance) error {
	v.a.ready.Forget(i.ID)
	err := v.VMMs.Release(ctx, i)
	if err == nil {
		v.a.ready.Rests(i)
	}
	return err
}
