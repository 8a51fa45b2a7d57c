package guest

import (
	"bytes"
	"time"

	"mvm/internal/guestproto"
)

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
	if a.suspension.anyHeld() {
		a.goBackground(a.settler.wake)
	}
	answer := guestproto.Resumed{Clean: err == nil}
	if a.configuring.TryLock() {
		answer.InForce = bytes.Equal(a.last.digest, r.Digest[:])
		a.configuring.Unlock()
	}
	answer.UnixNanos = time.Now().UnixNano()
	return answer.Encode()
}

// resumeClock steps the clock by the time that passed outside, which no delay of the
// message can falsify. A clock that is behind the message after that was wrong before
// and takes the message's time; whether it is ahead, the host alone can tell.
func (a *Agent) resumeClock(r guestproto.Resume) error {
	if err := a.sys.StepClock(time.Duration(r.AdvanceNanos)); err != nil {
		return err
	}
	if sent := time.Unix(0, r.UnixNanos); time.Now().Before(sent) {
		return a.sys.SetClock(sent)
	}
	return nil
}
