package store

import "mvm"

// SetPoolProblem says on the pool's record what is wrong; empty: nothing is.
func (tx *Tx) SetPoolProblem(at mvm.Address, problem string) error {
	p, err := tx.Pool(at.Tenant, at.Pool)
	if err != nil || p.Problem == problem {
		return err
	}
	p.Problem = problem
	return tx.PutPool(p)
}
