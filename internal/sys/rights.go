package sys

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// DropBounding takes from this thread, and from all that it becomes, every capability that it
// could ever get, but those to keep: see capabilities(7). It needs CAP_SETPCAP. The caller has
// locked the goroutine to the thread.
func DropBounding(keep ...uintptr) error {
	for n := uintptr(0); n <= 63; n++ {
		if slices.Contains(keep, n) {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, n, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) && n > 0 { // past the last
			return nil
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", n, err)
		}
	}
	return nil
}
