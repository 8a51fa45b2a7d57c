package store

import (
	"mvm"
)

// keptTransitions bounds what is kept of each instance.
const keptTransitions = 16

// Transitions returns the last transitions of an instance, oldest first.
func (t *Tx) Transitions(id string) ([]mvm.Transition, error) {
	var out []transitionRecord
	_, err := t.get(bucketTransitions, []byte(id), &out)
	return each(out, transitionRecord.noun), err
}

// PutTransition adds a transition of an instance that is there, or replaces the last
// one where both are of the same operation, and forgets all but the last 16.
func (t *Tx) PutTransition(id string, tr mvm.Transition) error {
	if t.bucket(bucketInstances).Get([]byte(id)) == nil {
		return notFound("instance %q", id)
	}
	all, err := t.Transitions(id)
	if err != nil {
		return err
	}
	if n := len(all); n > 0 && all[n-1].Op == tr.Op && all[n-1].Started.Equal(tr.Started) {
		all = all[:n-1]
	}
	all = append(all, tr)
	return t.put(bucketTransitions, []byte(id), each(all[max(0, len(all)-keptTransitions):], recordOfTransition))
}
