package agent

import "mvm"

// gatewayUp has workers that run learn the address of a gateway that is new: they reach the
// platforms of its channels through it.
func (a *Agent) gatewayUp(i mvm.Instance) {
	if i.Role != mvm.RoleGateway || i.DiskGeneration > 1 {
		return
	}
	if err := a.deliver.Later(i.Tenant); err != nil {
		a.log.Warn("deliver the address of a gateway", "instance", i.ID, "error", err)
	}
}
