package agent_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"mvm"
	"mvm/internal/guestproto"
)

// counter is a Metrics that remembers.
type counter struct {
	mu  sync.Mutex
	got map[string]int
	ops []mvm.Transition
}

func (c *counter) count(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.got == nil {
		c.got = map[string]int{}
	}
	c.got[fmt.Sprintf(format, args...)]++
}

func (c *counter) Operation(t mvm.Transition, err error) {
	c.count("%s %s %s", t.Op, t.Kind, mvm.KindOf(err))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ops = append(c.ops, t)
}
func (c *counter) Deferred(op mvm.OpKind, reason string) { c.count("deferred %s %s", op, reason) }
func (c *counter) Messages(kind mvm.ChannelKind, result string, n int) {
	for range n {
		c.count("messages %s %s", kind, result)
	}
}
func (c *counter) HostBound(request, result string)         { c.count("host %s %s", request, result) }
func (c *counter) Reconciled(took time.Duration, err error) { c.count("reconciled") }
func (c *counter) Backlog(string, string, int)              {}
func (c *counter) Builds(queued, running int)               { c.count("builds %d %d", queued, running) }
func (c *counter) BuildEnded(state string)                  { c.count("build %s", state) }
func (c *counter) Ready(int64)                              {}
func (c *counter) Restored(tier string)                     { c.count("restored %s", tier) }
func (c *counter) Asked(result string)                      { c.count("asked %s", result) }
func (c *counter) Timer(result string)                      { c.count("timer %s", result) }

// of is how often that was counted.
func (c *counter) of(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got[what]
}

// The agent tells who counts of each operation, with its stages, and of each request of
// a guest, with its result.
func TestAgentTellsItsMetrics(t *testing.T) {
	h, gw, w, _ := gatewayHost(t)
	h.do(w.ID, mvm.OpSleep)
	h.do(w.ID, mvm.OpWake)
	h.ask(gw.ID, guestproto.HostRequest{QueryInstanceStatus: name(w)})
	h.ask(w.ID, guestproto.HostRequest{WakeInstance: name(gw)})
	h.ask(gw.ID, guestproto.HostRequest{Acquire: &guestproto.Acquire{PoolID: "none"}})
	h.metrics.mu.Lock()
	defer h.metrics.mu.Unlock()
	for _, want := range []string{"start cold ", "sleep  ", "wake warm ", "host QueryInstanceStatus ok", "host WakeInstance refused", "host Acquire failed"} {
		if h.metrics.got[want] == 0 {
			t.Errorf("%q was not counted: %v", want, h.metrics.got)
		}
	}
	for _, op := range h.metrics.ops {
		if op.Op == mvm.OpWake && (len(op.Stages) < 5 || op.Took == 0) {
			t.Errorf("the wake has stages %v in %s", op.Stages, op.Took)
		}
	}
}
