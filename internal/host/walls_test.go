package host_test

import (
	"strings"
	"testing"

	"mvm/internal/jail"
	"mvm/internal/manifest"
)

// The walls that the config knows are those that there are.
func TestWallsOfTheConfig(t *testing.T) {
	var names []string
	for _, w := range jail.Walls() {
		names = append(names, string(w))
	}
	for _, n := range names {
		if !strings.Contains(manifest.Walls, n) {
			t.Errorf("the config does not know %s", n)
		}
	}
	if got := len(strings.Split(manifest.Walls, ", ")); got != len(names) {
		t.Errorf("the config knows %d walls, and there are %d", got, len(names))
	}
}
