package host

import (
	"context"
	"errors"
	"strings"

	"mvm"
	"mvm/internal/image/nix"
	"mvm/internal/manifest"
)

// CheckFlakes says whether an agent of the config could build images of Nix flakes. It builds a
// cage for a moment.
func CheckFlakes(ctx context.Context, c manifest.AgentConfig) mvm.Finding {
	version, err := nix.Version(ctx)
	if err != nil {
		return mvm.Finding{Severity: "ok", What: "images of Nix flakes can't be built, which only pools with a flake need: " + err.Error()}
	}
	if c.Hostd.Socket != "" {
		return mvm.Finding{Severity: "ok", What: "images of Nix flakes can't be built, which only pools with a flake need: the agent does not run as root"}
	}
	if err := nix.Try(ctx); err != nil {
		return cannot(err)
	}
	return mvm.Finding{Severity: "ok", What: "images of Nix flakes can be built, with Nix " + version}
}

// cannot is the finding of a host that has Nix, but not what its cage needs.
func cannot(err error) mvm.Finding {
	text, fix := err.Error(), "see docs/nix.md"
	var e *mvm.Error
	if errors.As(err, &e) && e.Fix != "" {
		text, fix = strings.TrimSuffix(text, " ("+e.Fix+")"), e.Fix
	}
	return mvm.Finding{Severity: "warning", What: "images of Nix flakes can't be built: " + text, Fix: fix}
}
