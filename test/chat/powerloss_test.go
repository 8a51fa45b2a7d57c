package chat_test

import (
	"fmt"
	"slices"
	"testing"
)

// TestPowerLoss: what Telegram has been told to forget is on the worker's disk. The power goes
// just after, and OpenClaw makes the turn when it is up again.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	c := newChaos(t, *seedFlag)
	c.write(0) // with the first one OpenClaw makes files that it has from then on
	c.until("the first message is answered", func() error { return c.isAsked(c.order[0]) })
	c.ready()
	for n := range *lossesFlag {
		c.mu.Lock()
		c.armed = &kill{what: "machine", step: "confirmed"}
		c.mu.Unlock()
		c.write(n + 1)
		<-c.fired
		c.ready()
		if err := c.isAsked(c.order[n+1]); err != nil {
			t.Errorf("loss %d: OpenClaw is up and idle, and %v", n+1, err)
		}
	}
	by, _ := c.answers()
	t.Logf("%d losses of power just after a message was confirmed; answers of each message: %v", *lossesFlag, by)
}

// isAsked is nil where the model was asked about the message.
func (c *chaos) isAsked(key string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.ContainsFunc(c.asks, func(a asked) bool { return a.key == key }) {
		return fmt.Errorf("%s is lost", key)
	}
	return nil
}
