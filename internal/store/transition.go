package store

import (
	"slices"

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
// one where both are of the same operation, and keeps 16: the last ones, of which one may be
// the last boot, however long ago.
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
	return t.put(bucketTransitions, []byte(id), each(lastTransitions(all), recordOfTransition))
}

// lastTransitions are those that are kept. How long a boot takes is known from the last one.
func lastTransitions(all []mvm.Transition) []mvm.Transition {
	first := len(all) - keptTransitions
	if first <= 0 {
		return all
	}
	for n, t := range slices.Backward(all) {
		if Booted(t) {
			if n < first {
				return append([]mvm.Transition{t}, all[first+1:]...)
			}
			break
		}
	}
	return all[first:]
}

// Booted reports that the transition booted its instance from its disks until all services
// were ready, which is what it took.
func Booted(t mvm.Transition) bool {
	return t.Kind == "cold" && t.Error == "" && t.To == mvm.StateRunning &&
		slices.ContainsFunc(t.Stages, func(s mvm.Stage) bool { return s.Name == "ready" })
}
