package hosts

import (
	"context"
	"os"

	"mvm"
	"mvm/internal/manifest"
)

// walls looks for missing walls around VMMs of an agent of the config; nil where it starts none.
func (a *app) walls(cfg manifest.AgentConfig) func(context.Context) ([]mvm.Finding, error) {
	if a.CheckWalls == nil || cfg.Driver == "fake" {
		return nil
	}
	return func(ctx context.Context) ([]mvm.Finding, error) { return a.CheckWalls(ctx, cfg) }
}

// flakes looks whether an agent of the config could build Nix flakes; nil where it builds nothing.
func (a *app) flakes(cfg manifest.AgentConfig) func(context.Context) mvm.Finding {
	if a.CheckFlakes == nil || cfg.Driver == "fake" {
		return nil
	}
	return func(ctx context.Context) mvm.Finding { return a.CheckFlakes(ctx, cfg) }
}

// hello asks the mvm hostd of the config whether it answers.
func (a *app) hello(cfg manifest.AgentConfig) func(context.Context) error {
	return func(ctx context.Context) error {
		if a.CheckHostd == nil {
			return mvm.Errorf(mvm.KindUnavailable, "this program has nothing to ask it with")
		}
		return a.CheckHostd(ctx, cfg)
	}
}

// checkProduction is what keeps an agent of the config from starting in production
// mode; nothing outside that mode.
func (a *app) checkProduction(cfg manifest.AgentConfig) []mvm.Finding {
	if !cfg.Trust.Production {
		return nil
	}
	if cfg.Hostd.Socket != "" && os.Geteuid() == 0 { // the agent is another user, who owns the keys
		return []mvm.Finding{{Severity: "warning", What: "production: not checked, because only the agent's user can read the keys",
			Fix: "runuser -u " + cfg.Hostd.User + " -- mvm doctor"}}
	}
	return a.CheckProduction(cfg)
}
