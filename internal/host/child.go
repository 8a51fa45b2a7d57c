package host

import "mvm/internal/image/oci"

// RunChild does the work of a process without rights where this process is one, started by
// an agent, and exits. main calls it before anything else.
func RunChild() { oci.RunChild() }
