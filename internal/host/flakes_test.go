package host_test

import (
	"strings"
	"testing"

	"mvm/internal/host"
	"mvm/internal/manifest"
)

// TestCheckFlakes: doctor says whether flakes can be built, and for what reason they can't.
func TestCheckFlakes(t *testing.T) {
	if f := host.CheckFlakes(t.Context(), manifest.AgentConfig{}); f.Severity != "ok" || !strings.Contains(f.What, "can be built, with Nix 2") {
		t.Errorf("%+v, want that they can (scripts/setup --test installs Nix)", f)
	}
	split := manifest.AgentConfig{Hostd: manifest.HostdConfig{Socket: "/run/mvm/hostd.sock"}}
	if f := host.CheckFlakes(t.Context(), split); f.Severity != "ok" || !strings.Contains(f.What, "the agent does not run as root") {
		t.Errorf("%+v, want that the agent has no rights", f)
	}
}
