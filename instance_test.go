package mvm_test

import (
	"strings"
	"testing"

	"mvm"
)

// TestCanBecome lists every change of state that there is. A sleep goes from running to
// sleeping in one change of the record, whatever its VMM does meanwhile.
func TestCanBecome(t *testing.T) {
	const all = "created ready running warm sleeping stopped destroyed"
	want := map[string]string{
		"created": "ready destroyed", "ready": "running destroyed", "running": "warm sleeping stopped destroyed",
		"warm": "running sleeping stopped destroyed", "sleeping": "running warm stopped destroyed", "stopped": "running sleeping destroyed", "destroyed": "",
	}
	for _, from := range strings.Fields(all) {
		var can []string
		for _, to := range strings.Fields(all) {
			if mvm.State(from).CanBecome(mvm.State(to)) {
				can = append(can, to)
			}
		}
		if got := strings.Join(can, " "); got != want[from] {
			t.Errorf("%s can become %q, want %q", from, got, want[from])
		}
	}
}
