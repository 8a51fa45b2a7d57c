package qemu

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"mvm"
	"mvm/internal/driver"
)

// Stats measures the process, the TAP and the disks. What can't be measured is 0.
func (v *vmm) Stats(ctx context.Context) (driver.Stats, error) {
	select {
	case <-v.done:
		return driver.Stats{}, mvm.Errorf(mvm.KindUnavailable, "measure the VMM: %w", errGone)
	default:
	}
	p, err := v.proc.Stats()
	if err != nil {
		return driver.Stats{}, mvm.Errorf(mvm.KindUnavailable, "measure the VMM: %w", err)
	}
	s := driver.Stats{CPU: p.CPU, RSSBytes: p.RSS}
	s.RxBytes = tapCounter(v.rec.TAP, "tx_bytes") // what the host sends the guest receives
	s.TxBytes = tapCounter(v.rec.TAP, "rx_bytes")
	var blocks []struct {
		Stats struct {
			Read    int64 `json:"rd_bytes"`
			Written int64 `json:"wr_bytes"`
		} `json:"stats"`
	}
	if len(v.spec.Disks) > 0 {
		if err := v.do(ctx, "query-blockstats", nil, &blocks); err != nil {
			return s, err
		}
	}
	for _, b := range blocks {
		s.DiskRead += b.Stats.Read
		s.DiskWrit += b.Stats.Written
	}
	return s, nil
}

func tapCounter(tap, name string) int64 {
	if tap == "" || tap != filepath.Base(tap) {
		return 0
	}
	b, err := os.ReadFile(filepath.Join("/sys/class/net", tap, "statistics", name))
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n
}
