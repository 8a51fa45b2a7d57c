package policy

import (
	"fmt"
	"time"
)

func timerText(next, now time.Time) string {
	if next.After(now) {
		return fmt.Sprintf("its next wake is in %s", span(next.Sub(now)))
	}
	return fmt.Sprintf("its next wake was %s ago", span(now.Sub(next)))
}
