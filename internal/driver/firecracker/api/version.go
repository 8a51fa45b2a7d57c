package api

import (
	"fmt"
	"strings"

	"mvm"
)

// CheckVersion refuses a Firecracker that is known not to work, or too old or new to be
// known.
func CheckVersion(version string) error {
	var major, minor, patch int
	if n, _ := fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch); n != 3 {
		return refused(version, "its version can't be read")
	}
	switch {
	case major != 1 || minor < 15:
		return refused(version, "mvm knows 1.15 and later of 1.x")
	case minor == 16 && patch == 0:
		return refused(version, "after a restore, connections of the guest to its host hang (Firecracker #5958)")
	case minor == 16 && patch == 1:
		return refused(version, "after a pause and resume without a snapshot, connections of the host to its guest hang (Firecracker #6100)")
	}
	return nil
}

func refused(version, why string) error {
	return mvm.Errorf(mvm.KindUnavailable, "use Firecracker %.40s: %s", version, why).
		WithFix("install a release of 1.15, or 1.16.2 or later")
}

// VersionIn finds the version in what `firecracker --version` prints.
func VersionIn(printed string) (string, bool) {
	for line := range strings.Lines(printed) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "Firecracker v"); ok {
			return v, true
		}
	}
	return "", false
}
