package plan

import "mvm"

// parked reports whether the instance rests because it was idle, or is about to.
func parked(i mvm.Instance) bool {
	if i.Op != nil && (i.Op.Kind == mvm.OpWarm || i.Op.Kind == mvm.OpSleep) {
		return i.Op.By.Kind == mvm.AskerPolicy
	}
	return i.Parked
}

// tally is a pool's instances, counted for what they stand for.
type tally struct {
	spare, held mvm.Counts
	// stands are the parked ones that fill a desired count: they are counted with those
	// held, and to be left at rest.
	stands map[*instance]bool
}

// tally counts the pool's instances: those that may be changed, and those that are
// held by their user, an override or an operation, or because a request woke them.
// Parked ones fill what is missing of the running and then of the warm, those that are
// warm and the oldest first; the others of them count as what they are. Last come those
// that may stand for any that is missing.
func (m *model) tally(spec mvm.PoolSpec) tally {
	t := tally{stands: map[*instance]bool{}}
	resting := map[mvm.State][]*instance{}
	var flexible []*instance
	for _, i := range m.instances {
		switch {
		case i.pool != spec.ID || !i.spare && !i.held:
		case i.parked && i.state != mvm.StateRunning:
			resting[i.state] = append(resting[i.state], i)
		case i.stands:
			flexible = append(flexible, i)
		default:
			t.add(i, spec.Desired)
		}
	}
	for _, state := range []mvm.State{mvm.StateWarm, mvm.StateSleeping} {
		for _, i := range resting[state] {
			t.addResting(i, spec.Desired)
		}
	}
	for _, i := range flexible {
		t.addFlexible(i, spec.Desired)
	}
	return t
}

// addFlexible counts one as what it is, or is on its way to, where one of these is
// missing, and else for whatever is missing.
func (t *tally) addFlexible(i *instance, desired mvm.Counts) {
	for _, as := range []mvm.State{i.state, mvm.StateRunning, mvm.StateWarm, mvm.StateSleeping} {
		if n := field(&t.held, as); *n+*field(&t.spare, as) < *field(&desired, as) {
			*n++
			return
		}
	}
	t.held.Running++
}

func (t *tally) addResting(i *instance, desired mvm.Counts) {
	for _, as := range []mvm.State{mvm.StateRunning, mvm.StateWarm} {
		if n := field(&t.held, as); *n+*field(&t.spare, as) < *field(&desired, as) {
			*n++
			t.stands[i] = true
			return
		}
	}
	t.add(i, desired)
}

func (t *tally) add(i *instance, desired mvm.Counts) {
	if i.spare {
		*field(&t.spare, i.state)++
		return
	}
	if n := field(&t.held, i.state); *n < *field(&desired, i.state) {
		*n++
	} else {
		t.held.Running++ // in whatever state: it stands for the one that it was
	}
}
