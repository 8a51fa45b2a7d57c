package agent

import "mvm"

// parks says whether the instance is parked once the operation has brought it to the
// state. A sleep has said so at its commit, since recovery may be who finishes it.
func (o *operation) parks(i mvm.Instance, to mvm.State) bool {
	switch to {
	case mvm.StateWarm:
		return o.job.req.by == mvm.AskerPolicy
	case mvm.StateSleeping:
		return i.Parked
	}
	return false
}
