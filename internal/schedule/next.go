package schedule

import (
	"fmt"
	"hash/fnv"
	"time"

	"mvm"
)

// Times by which instances are woken.
const (
	// Early is how long before its time an instance is awake, beside the time that its last
	// wake took.
	Early = 5 * time.Second
	// Jitter bounds how much earlier still, by its id: of many that are due at the same time.
	Jitter = 20 * time.Second
	// Grace is by how much a wake may be late that is not missed.
	Grace = time.Minute
	// MinGap is between two wakes that catch up on missed ones, at least.
	MinGap = time.Minute

	unknownTook = 10 * time.Second  // a wake, where none was measured
	maxTook     = 150 * time.Second // beyond it the measure does not count

	// A boot may take minutes, and one takes longer than another: it is taken for a quarter
	// longer than the last one took. No operation waits longer than 15 minutes for services, and
	// they may be ready later: the last boot is on record all the same.
	unknownBoot = time.Minute
	maxBoot     = time.Hour
)

// Timer is an instance's next wake with all that is decided by.
type Timer struct {
	ID      string
	At      time.Time // zero: none
	CatchUp mvm.CatchUp
	State   mvm.State
	Changed time.Time // when it came to the state
	// Busy: an operation is under way. Kept: a person, or what is desired, wants it stopped.
	Busy, Kept bool
	Took       time.Duration // of its last wake; 0: not known
	Boot       time.Duration // of its last boot, until its services were ready; 0: not known

	// Looked: it is known whether it has to boot. Boots says why it has to; empty: it does not.
	Looked bool
	Boots  string

	Met   time.Time // the At at which it was awake
	Last  time.Time // when it was woken last by its timer
	Retry time.Time // no earlier than that, after a try that failed
}

// Do is what is to be done.
type Do int

const (
	Wait Do = iota // until Next, or for ever where that is zero
	Wake
	Look // see whether it has to boot
	Meet // it was awake at its time
	Skip // it is not woken, as Why says
)

// Step is what a Timer calls for.
type Step struct {
	Do   Do
	Next time.Time
	Why  string
}

// Begin is when the wake begins: so early that the instance is awake at its time, and of many
// with the same time not all at once.
func (t Timer) Begin() time.Time {
	if t.State == mvm.StateStopped || t.Boots != "" {
		return t.before(t.bootTakes())
	}
	return t.before(t.wakeTakes())
}

// lookAt is when to see whether a sleeping instance has to boot: there is time for that still.
func (t Timer) lookAt() time.Time { return t.before(max(t.bootTakes(), t.wakeTakes())) }

func (t Timer) bootTakes() time.Duration {
	if t.Boot <= 0 {
		return unknownBoot
	}
	return min(t.Boot+t.Boot/4, maxBoot)
}

func (t Timer) wakeTakes() time.Duration {
	if t.Took <= 0 {
		return unknownTook
	}
	return min(t.Took, maxTook)
}

// before is when what takes so long begins.
func (t Timer) before(takes time.Duration) time.Time {
	h := fnv.New32a()
	h.Write([]byte(t.ID))
	spread := time.Duration(h.Sum32()%uint32(Jitter/time.Millisecond)) * time.Millisecond
	return t.At.Add(-Early - takes - spread)
}

// Next decides. It depends on its arguments alone.
func Next(t Timer, now time.Time) Step {
	switch {
	case t.At.IsZero() || t.At.Equal(t.Met) || t.Busy:
		return Step{}
	case t.State == mvm.StateRunning && now.Before(t.At):
		return Step{Next: t.At}
	case t.State == mvm.StateRunning:
		return Step{Do: Meet}
	case t.State == mvm.StateSleeping, t.State == mvm.StateWarm, t.State == mvm.StateStopped && !t.Kept:
		return t.rests(now)
	}
	return Step{}
}

// rests decides on an instance that does not run.
func (t Timer) rests(now time.Time) Step {
	late := now.Sub(t.At)
	missed := late > Grace
	switch {
	case late > mvm.OldNextWake:
		return Step{Do: Skip, Why: fmt.Sprintf("it was missed by %s", span(late))}
	case missed && t.CatchUp == mvm.CatchUpSkip:
		return Step{Do: Skip, Why: fmt.Sprintf("it was missed by %s, and the pool skips missed wakes", span(late))}
	case t.CatchUp != mvm.CatchUpAll && t.State != mvm.StateStopped && t.Changed.Sub(t.At) > Grace:
		return Step{Do: Skip, Why: fmt.Sprintf("it was over for %s when the instance went to rest", span(t.Changed.Sub(t.At)))}
	}
	begin, looks := t.Begin(), t.State == mvm.StateSleeping && !t.Looked
	if looks {
		begin = t.lookAt()
	}
	begin = later(begin, t.Retry)
	if missed && !t.Last.IsZero() {
		begin = later(begin, t.Last.Add(MinGap))
	}
	if now.Before(begin) {
		return Step{Next: begin}
	}
	if looks {
		return Step{Do: Look}
	}
	why := "its next wake is at " + t.At.UTC().Format(time.RFC3339)
	if missed {
		why = fmt.Sprintf("its next wake was missed by %s", span(late))
	}
	if t.Boots != "" {
		why += "; it has to boot: " + t.Boots
	}
	return Step{Do: Wake, Why: why}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// span is a time for people.
func span(d time.Duration) string { return d.Round(time.Second).String() }
