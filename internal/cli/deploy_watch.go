package cli

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

// watchPoll is how often files are looked at; it costs a stat for each.
const watchPoll = 500 * time.Millisecond

// waitChange returns nil when one of the files changes or the interval is over, and
// the context's error when that ends first.
func waitChange(ctx context.Context, files []string, interval time.Duration) error {
	before := fingerprint(files)
	timeout := time.NewTimer(interval)
	defer timeout.Stop()
	tick := time.NewTicker(watchPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timeout.C:
			return nil
		case <-tick.C:
			if fingerprint(files) != before {
				return nil
			}
		}
	}
}

// fingerprint changes when a file is written, replaced, made or removed.
func fingerprint(files []string) string {
	var b strings.Builder
	for _, path := range files {
		st, err := os.Stat(path)
		if err != nil {
			b.WriteString("gone;")
			continue
		}
		fmt.Fprintf(&b, "%d %d %v;", st.ModTime().UnixNano(), st.Size(), st.Sys())
	}
	return b.String()
}
