package gateway_test

import (
	"strings"
	"testing"

	"mvm"
	"mvm/internal/guest/gateway"
)

// A channel that can't have its instance is told so, and has no lease; so is one that asks a
// gateway that closes.
func TestReachThatFails(t *testing.T) {
	l := newLab(t, gateway.Limits{})
	l.host.script(refuses("max_running is 1", 60))
	lease, err := l.router.Reach(t.Context(), "bot", "workers", "ann")
	if lease != nil || !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), "pool workers") || !strings.Contains(err.Error(), "no instance is available") {
		t.Errorf("a lease %v and %v, want why there is none", lease, err)
	}
	if err := l.router.Close(); err != nil {
		t.Fatal(err)
	}
	lease, err = l.router.Reach(t.Context(), "bot", "workers", "ann")
	if lease != nil || !mvm.IsKind(err, mvm.KindUnavailable) || !strings.Contains(err.Error(), "closing") {
		t.Errorf("a gateway that is closed: a lease %v and %v", lease, err)
	}
}
