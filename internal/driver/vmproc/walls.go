package vmproc

import (
	"context"
	"fmt"
	"sync"

	"mvm"
	"mvm/internal/jail"
	"mvm/internal/sys"
)

// walls are what was found out about the walls of this host, once.
type walls struct {
	mu    sync.Mutex
	known bool
	lacks []jail.Lack
}

// Walls is described at Host.
func (h *Local) Walls(ctx context.Context) ([]mvm.Finding, error) {
	if !h.jail.On {
		return []mvm.Finding{missing("VMMs run without a jail", "")}, nil
	}
	h.walls.mu.Lock()
	defer h.walls.mu.Unlock()
	if !h.walls.known {
		lacks, err := h.jail.Check(ctx)
		if err != nil {
			return nil, mvm.Errorf(mvm.KindUnavailable, "check the walls around VMMs: %w", err)
		}
		h.walls.known, h.walls.lacks = true, lacks
	}
	out := findings(h.walls.lacks)
	for _, w := range h.jail.Without {
		out = append(out, missing(fmt.Sprintf("VMMs run without %s: jail_without turns it off", w), "remove it from jail_without"))
	}
	if err := sys.CgroupsBound(""); err != nil {
		out = append(out, missing("VMMs run without cgroup limits: "+err.Error(), "see \"Bounds of VMMs\" in docs/production.md"))
	}
	if err := sys.CPUBound(""); err != nil {
		out = append(out, missing("VMMs run without a limit of CPU time: "+err.Error(), "see \"Bounds of VMMs\" in docs/production.md"))
	}
	return out, nil
}

func findings(lacks []jail.Lack) (out []mvm.Finding) {
	for _, l := range lacks {
		out = append(out, missing(fmt.Sprintf("VMMs run without %s: %s", l.Wall, l.Text), l.Fix()))
	}
	return out
}

func missing(what, fix string) mvm.Finding {
	return mvm.Finding{Severity: "warning", What: what, Fix: fix}
}
