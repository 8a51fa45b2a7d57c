package store

import (
	"slices"
	"time"

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

// EndBoot has it on record that the services of the instance became ready at that time, which
// the operation that booted it did not wait for. It changes i.Last, which the caller stores.
// There may be nothing to change: the instance was not booted last, or that is on record.
func (t *Tx) EndBoot(i *mvm.Instance, at time.Time) error {
	boot := i.Last
	if boot == nil || !boots(*boot) || Booted(*boot) || !at.After(boot.Started.Add(boot.Took)) {
		return nil
	}
	ended := endedAt(*boot, at)
	i.Last = &ended
	all, err := t.Transitions(i.ID)
	n := slices.IndexFunc(all, func(tr mvm.Transition) bool { return tr.Op == boot.Op && tr.Started.Equal(boot.Started) })
	if err != nil || n < 0 {
		return err
	}
	all[n] = endedAt(all[n], at)
	return t.put(bucketTransitions, []byte(i.ID), each(all, recordOfTransition))
}

// endedAt is a boot with the time until its services were ready.
func endedAt(boot mvm.Transition, at time.Time) mvm.Transition {
	ready := mvm.Stage{Name: stageReady, Took: max(at.Sub(boot.Started.Add(boot.Took)), 0)}
	boot.Stages, boot.Took = append(slices.Clone(boot.Stages), ready), at.Sub(boot.Started)
	return boot
}

// stageReady is the stage in which services become ready.
const stageReady = "ready"

func boots(t mvm.Transition) bool { return t.Kind == "cold" && t.To == mvm.StateRunning }

// Booted reports that the transition booted its instance from its disks, and took until all
// services were ready; also where who waited for that gave up before.
func Booted(t mvm.Transition) bool {
	return boots(t) && slices.ContainsFunc(t.Stages, func(s mvm.Stage) bool { return s.Name == stageReady })
}
