package sim_test

import (
	"time"

	"mvm"
	"mvm/internal/driver/fake"
)

// nextWake is a time that a guest tells before it rests; zero: it has none. Times are not
// round, and come from numbers of their own: without timers the worlds are as they were.
func (w *world) nextWake() time.Time {
	n, nanos := w.later.IntN(300), w.later.IntN(999_983)
	if w.later.IntN(3) == 0 {
		return time.Time{}
	}
	return time.Now().Add(10*time.Second + time.Duration(n)*time.Second + time.Duration(nanos))
}

// earliest is by how much a timer may wake an instance before its time: 5 s, 20 s by its id,
// and what its last wake took, up to 150 s.
const earliest = 175 * time.Second

// checkTimer: a timer brings up only what asked for it, and not before its time.
func (w *world) checkTimer(e mvm.Event) {
	if e.By.Kind != mvm.AskerTimer || e.Action != mvm.InstanceWoken && e.Action != mvm.InstanceResumed && e.Action != mvm.InstanceStarted {
		return
	}
	s := w.model.instances[e.Instance]
	switch {
	case s == nil || s.now.NextWake.IsZero():
		w.fail("a timer brought up %s, which has no next wake", e.Instance)
	case e.By.ID != e.Instance:
		w.fail("the timer of %s brought up %s", e.By.ID, e.Instance)
	case e.Time.Before(s.now.NextWake.Add(-earliest)):
		w.fail("a timer brought up %s at %s, for %s", e.Instance, e.Time.Format(time.TimeOnly), s.now.NextWake.Format(time.TimeOnly))
	}
}

// oversleeps reports that the instance rests though its next wake is over, and nothing keeps
// it from coming up.
func (w *world) oversleeps(i mvm.Instance, t mvm.Tenant) bool {
	if i.State != mvm.StateSleeping && i.State != mvm.StateWarm || i.NextWake.IsZero() || time.Now().Before(i.NextWake) {
		return false
	}
	if i.State == mvm.StateWarm { // it counts as it is
		return w.fits(i, t, mvm.Resources{VCPUs: 0, MemMiB: 0})
	}
	return w.fits(i, t, i.Res)
}

// endNextWake is how far ahead the epilogue's worker wants its next wake: it sleeps again
// before, since nobody wants it awake.
const endNextWake = 18*time.Minute + 7*time.Millisecond

// timerOutlivesAgent: a sleeper is awake at its next wake, though the agent that put it to
// sleep has ended or died meanwhile.
func (w *world) timerOutlivesAgent(i mvm.Instance, at time.Time) {
	if s := w.model.instances[i.ID]; s == nil {
		w.fail("epilogue: instance %s is gone", i.ID)
		return
	} else if s.now.State != mvm.StateSleeping || !s.now.NextWake.Equal(at) {
		w.fail("epilogue: instance %s is %s with its next wake at %s, want it asleep until %s", i.ID, s.now.State, s.now.NextWake, at)
	}
	was := w.life
	if w.seed%2 == 0 {
		w.killAgent()
	} else {
		w.restartAgent()
	}
	w.comeToRest("epilogue: the agent ended")
	if w.life == was || !time.Now().Before(at.Add(-earliest)) {
		w.fail("epilogue: another agent was to run long before %s", at.Format(time.TimeOnly))
	}
	w.elapse(time.Until(at))
	if s := w.stateOf(i); s != mvm.StateRunning {
		w.fail("epilogue: instance %s is %s at its next wake", i.ID, s)
	}
	w.host.Behave(i.ID, fake.Behavior{})
}
