package lifecycle

import "mvm"

// gatewayUp has workers that run learn the address of a gateway that is new: they reach the
// platforms of its channels through it.
func (l *Lifecycle) gatewayUp(i mvm.Instance) {
	if i.Role != mvm.RoleGateway || i.DiskGeneration > 1 {
		return
	}
	if err := l.opt.Deliver.Later(i.Tenant); err != nil {
		l.log.Warn("deliver the address of a gateway", "instance", i.ID, "error", err)
	}
}
