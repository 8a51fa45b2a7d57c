package store

import "mvm"

// SetPoolProblem says on the pool's record what is wrong; empty: nothing is.
func (t *Tx) SetPoolProblem(at mvm.Address, problem string) error {
	p, err := t.Pool(at.Tenant, at.Pool)
	if err != nil || p.Problem == problem {
		return err
	}
	p.Problem = problem
	return t.PutPool(p)
}
