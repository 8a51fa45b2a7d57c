package guest

import (
	"bytes"
	"time"

	"mvm/internal/guestproto"
)

// maxStepError is how far the clock may be from the host's after a step by the time
// for which the vCPUs stood still; beyond it the host's clock is taken as it came.
const maxStepError = 250 * time.Millisecond

// Resume answers the host's greeting to a restored guest: clock and entropy are set
// right, and it says whether the configuration in force is the one that the host
// wants. It runs where the channel is read, with as little code as can be: a
// restored guest is slowest at first.
func (a *Agent) Resume(body []byte) []byte {
	r, err := guestproto.DecodeResume(body)
	if err == nil {
		err = a.resumeClock(r)
	}
	if err == nil {
		err = a.sys.AddEntropy(r.Entropy[:])
	}
	answer := guestproto.Resumed{Clean: err == nil}
	if a.configuring.TryLock() {
		answer.InForce = len(a.last.digest) > 0 && bytes.Equal(a.last.digest, r.Digest[:])
		a.configuring.Unlock()
	}
	answer.UnixNanos = time.Now().UnixNano()
	return answer.Encode()
}

// resumeClock steps the clock by the time that passed outside, which no delay of the
// message can falsify. A clock that is wrong after that takes the host's time.
func (a *Agent) resumeClock(r guestproto.Resume) error {
	if err := a.sys.StepClock(time.Duration(r.AdvanceNanos)); err != nil {
		return err
	}
	off := time.Since(time.Unix(0, r.UnixNanos))
	if off > -maxStepError/10 && off < maxStepError {
		return nil
	}
	return a.sys.SetClock(time.Unix(0, r.UnixNanos))
}
