package lifecycle

import (
	"slices"
	"sync"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/sys"
)

// Pauses between wakes of an instance that requests ask for while the host can't do
// them: the first, doubled with every failure, and the longest.
const (
	wakePause    = time.Second
	wakePauseMax = time.Minute
)

// wakeFaults are the wakes that failed for a fault of the host, by instance. They are in
// memory only: another agent tries at once.
type wakeFaults struct {
	mu sync.Mutex
	by map[string]wakeFault
}

type wakeFault struct {
	err   error
	until time.Time // not before, for requests
	pause time.Duration
}

// failed notes a wake that failed.
func (f *wakeFaults) failed(id string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.by == nil {
		f.by = map[string]wakeFault{}
	}
	pause := min(max(wakePause, 2*f.by[id].pause), wakePauseMax)
	f.by[id] = wakeFault{err: err, until: time.Now().Add(pause), pause: pause}
}

// ended forgets the instance's failures.
func (f *wakeFaults) ended(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.by, id)
}

// check returns the last failure as long as requests are to wait.
func (f *wakeFaults) check(id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	last, ok := f.by[id]
	left := time.Until(last.until)
	if !ok || left <= 0 {
		return nil
	}
	return mvm.Errorf(mvm.KindOf(last.err), "%w; tried again in %s", last.err, max(left.Round(time.Second), time.Second))
}

// sleepsOn is the error of a wake that failed for a fault of the host: the instance
// sleeps on with its snapshot, and the error says what to do.
func (o *operation) sleepsOn(why error) error {
	kind := mvm.KindOf(why)
	if kind == mvm.KindInternal || kind == mvm.KindInvalid {
		kind = mvm.KindUnavailable
	}
	err := mvm.Errorf(kind, "%w; the instance stays asleep with its memory", mvm.HostFault(why))
	switch {
	case hasFix(why):
	case sys.FaultFix(why) != "":
		err = err.WithFix("%s", sys.FaultFix(why))
	case sys.NoProgram(why):
		err = err.WithFix("install the VMM; see `mvm doctor`")
	default:
		err = err.WithFix("see the agent's log; `mvm instance wake %s` tries again, `mvm instance stop %s` discards its memory", o.inst.ID, o.inst.ID)
	}
	o.l.wakeFaults.failed(o.inst.ID, err)
	if e := o.save(func(i *mvm.Instance) { i.Problem = display.Clip(err.Error()) }); e != nil {
		o.log.Warn("record problem", "error", e) // such as a full disk, which this is about
	}
	return err
}

// hasFix reports whether an error of the tree says what to do.
func hasFix(err error) bool {
	if e, ok := err.(*mvm.Error); ok && e.Fix != "" { //nolint:errorlint // each of the tree is looked at
		return true
	}
	switch e := err.(type) { //nolint:errorlint // likewise
	case interface{ Unwrap() error }:
		return hasFix(e.Unwrap())
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(e.Unwrap(), hasFix)
	}
	return false
}
