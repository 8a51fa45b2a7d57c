package fake

import (
	"time"

	"mvm/internal/driver"
)

// usage is what a VMM has used, summed as its behaviour says each time that it is
// measured.
type usage struct {
	at    time.Time
	cpu   time.Duration
	bytes int64
}

// measure adds what was used since the last time. mu is held.
func (m *machine) measure(b Behavior) driver.Stats {
	now, u := time.Now(), &m.used
	if u.at.IsZero() {
		u.at = m.guest.Booted
	}
	took := now.Sub(u.at)
	u.at = now
	if m.state == Running {
		u.cpu += took * time.Duration(max(1, b.CPUPercent)) / 100
		u.bytes += int64(took) * int64(b.BytesPerMinute) / int64(time.Minute)
	}
	return driver.Stats{CPU: u.cpu, RSSBytes: int64(m.spec.MemMiB) << 20 / 4, RxBytes: u.bytes / 2, TxBytes: u.bytes - u.bytes/2}
}
