package lifecycle

import "mvm"

// unpark has an instance that rests already rest because somebody wants it to.
func (o *operation) unpark() error {
	if !o.inst.Parked || o.byPolicy() || o.job.req.By.Kind == mvm.AskerAgent {
		return nil
	}
	return o.save(func(i *mvm.Instance) { i.Parked = false })
}

// parks says whether the instance is parked once the operation has brought it to the
// state. A sleep has said so at its commit, since recovery may be who finishes it.
func (o *operation) parks(i mvm.Instance, to mvm.State) bool {
	switch to {
	case mvm.StateWarm:
		return o.job.req.By.Kind == mvm.AskerPolicy || o.job.req.Parks
	case mvm.StateSleeping:
		return i.Parked
	}
	return false
}
