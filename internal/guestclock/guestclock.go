// Package guestclock says between what bounds the error of a guest's clock lies, by what was seen
// of it. It is pure.
package guestclock

import "time"

// MaxError is the error that a guest's clock may have.
const MaxError = 20 * time.Millisecond

// Bounds are between what the error of a guest's clock lies, by all that was
// seen of it. The zero value knows nothing.
type Bounds struct {
	lo, hi time.Duration
	known  bool
}

// Saw narrows the bounds: the clock showed at, some time between sent and got.
func (c *Bounds) Saw(at, sent, got time.Time) {
	lo, hi := at.Sub(got), at.Sub(sent)
	if c.known && lo <= c.hi && hi >= c.lo {
		lo, hi = max(lo, c.lo), min(hi, c.hi)
	}
	c.lo, c.hi, c.known = lo, hi, true
}

// Stepped says that the clock was stepped.
func (c *Bounds) Stepped(by time.Duration) { c.lo, c.hi = c.lo+by, c.hi+by }

// Least is the smallest error, with its sign, that goes with what was seen.
func (c *Bounds) Least() time.Duration {
	switch {
	case c.lo > 0:
		return c.lo
	case c.hi < 0:
		return c.hi
	}
	return 0
}

// Middle is the error in the middle of them.
func (c *Bounds) Middle() time.Duration { return (c.lo + c.hi) / 2 }

// Sure reports that the error is within MaxError, whatever it is.
func (c *Bounds) Sure() bool { return c.known && c.lo >= -MaxError && c.hi <= MaxError }
