package mvm

import "time"

// Bounds of the time at which a guest says that it wants to be awake.
const (
	MaxNextWake = 400 * 24 * time.Hour // ahead
	OldNextWake = 24 * time.Hour       // past, by which it is of no use any more
)

// NextWake returns the time as it counts: in UTC, to the millisecond. KindInvalid when it is
// too far away. The zero time is none.
func NextWake(at, now time.Time) (time.Time, error) {
	switch {
	case at.IsZero():
		return at, nil
	case at.Sub(now) > MaxNextWake:
		return time.Time{}, Errorf(KindInvalid, "next wake %s is more than 400 days ahead", at.UTC().Format(time.RFC3339))
	case now.Sub(at) > OldNextWake:
		return time.Time{}, Errorf(KindInvalid, "next wake %s is more than a day ago", at.UTC().Format(time.RFC3339))
	}
	return at.UTC().Truncate(time.Millisecond), nil
}

// An instance is kept awake from BeforeTimer before its next wake, since sleep and wake would
// cost more than they save, until AfterTimer after it, so that its workload can begin. Another
// time that the workload sets meanwhile takes the place of this one.
const (
	BeforeTimer = 90 * time.Second
	AfterTimer  = 30 * time.Second
)

// AwaitsTimer reports whether an instance with the next wake is kept awake for it.
func AwaitsTimer(next, now time.Time) bool {
	return !next.IsZero() && next.Sub(now) <= BeforeTimer && now.Sub(next) < AfterTimer
}

// CatchUp is what becomes of a wake that was missed: the agent did not run at its time, or
// the host was off.
type CatchUp string

// The ways to catch up.
const (
	CatchUpOnce CatchUp = "once" // one wake, for all that were missed; the default
	CatchUpSkip CatchUp = "skip" // none
	CatchUpAll  CatchUp = "all"  // a wake for each, as the guest tells of them one by one
)

// Validate checks that it is one of the three, or empty, which is CatchUpOnce.
func (c CatchUp) Validate() error {
	switch c {
	case "", CatchUpOnce, CatchUpSkip, CatchUpAll:
		return nil
	}
	return Errorf(KindInvalid, "wake_catch_up %q is not one of once, skip, all", clip(string(c)))
}
