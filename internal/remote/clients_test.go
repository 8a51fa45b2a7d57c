package remote

import (
	"fmt"
	"testing"
	"time"

	"mvm"
)

// The table of clients is bounded, and forgets those that have been quiet.
func TestTableOfClientsIsBounded(t *testing.T) {
	c := newClients(1, 10)
	now := time.Now()
	for n := range maxClients {
		release, err := c.enter(fmt.Sprint(n), now)
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			release()
		}
	}
	if _, err := c.enter("one more", now); !mvm.IsKind(err, mvm.KindUnavailable) {
		t.Errorf("one more: %v", err)
	}
	if _, err := c.enter("one more", now.Add(2*time.Second)); err != nil {
		t.Errorf("after a while: %v", err)
	}
	if len(c.by) != 2 || c.by["0"] == nil {
		t.Errorf("%d clients are known, want the one with a request under way and the new one", len(c.by))
	}
}
