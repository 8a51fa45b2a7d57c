package host

import (
	"mvm/internal/image/nix/cage"
	"mvm/internal/image/oci"
	"mvm/internal/jail"
)

// RunChild does the work of a helper where this process is one, started by
// an agent, and exits. main calls it before anything else.
func RunChild() {
	jail.RunChild()
	oci.RunChild()
	cage.RunChild()
}
