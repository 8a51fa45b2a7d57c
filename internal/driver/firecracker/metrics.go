package firecracker

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"sync"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/firecracker/api"
	"mvm/internal/driver/rundir"
)

// maxMetrics bounds one line of Firecracker's metrics, which has about 10 KB.
const maxMetrics = 256 << 10

// metrics sums what Firecracker writes to its pipe: each line is what it counted since the
// one before. What it writes while no agent is there is lost but for what the pipe holds.
type metrics struct {
	pipe *os.File
	done chan struct{}

	mu    sync.Mutex
	lines int
	more  chan struct{} // closed with the next line, and replaced
	read  int64
	writ  int64
}

// readMetrics owns the pipe. stop ends it.
func readMetrics(pipe *os.File) *metrics {
	m := &metrics{pipe: pipe, done: make(chan struct{}), more: make(chan struct{})}
	go func() {
		defer close(m.done)
		lines := bufio.NewScanner(pipe)
		lines.Buffer(make([]byte, 16<<10), maxMetrics)
		for lines.Scan() {
			m.add(lines.Bytes())
		}
	}()
	return m
}

// add counts a line. What can't be read counts nothing.
func (m *metrics) add(line []byte) {
	var l struct {
		Block struct {
			Read    int64 `json:"read_bytes"`
			Written int64 `json:"write_bytes"`
		} `json:"block"`
	}
	_ = json.Unmarshal(line, &l)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.read += max(0, l.Block.Read)
	m.writ += max(0, l.Block.Written)
	m.lines++
	close(m.more)
	m.more = make(chan struct{})
}

// sums are what was counted so far, and a channel that is closed when there is more.
func (m *metrics) sums() (read, written int64, more <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.read, m.writ, m.more
}

// stop ends the reading.
func (m *metrics) stop() {
	m.pipe.Close()
	<-m.done
}

// metricsWait is how long a line may take to come through the pipe.
const metricsWait = 500 * time.Millisecond

// Stats measures the process, the TAP and the disks. What can't be measured is 0.
func (v *vmm) Stats(ctx context.Context) (driver.Stats, error) {
	if v.isDone() {
		return driver.Stats{}, mvm.Errorf(mvm.KindUnavailable, "measure the VMM: %w", errGone)
	}
	p, err := v.proc.Stats()
	if err != nil {
		return driver.Stats{}, mvm.Errorf(mvm.KindUnavailable, "measure the VMM: %w", err)
	}
	v.log.Trim()
	s := driver.Stats{CPU: p.CPU, RSSBytes: p.RSS, Throttled: p.Throttled}
	v.mu.Lock()
	m, tap := v.metrics, v.rec.TAP
	v.mu.Unlock()
	s.RxBytes, s.TxBytes = rundir.TAPBytes(tap)
	if m == nil {
		return s, nil
	}
	_, _, more := m.sums()
	if err := v.ask(ctx, func() error { return v.api.Act(ctx, api.FlushMetrics) }); err != nil {
		return s, err
	}
	select {
	case <-more:
	case <-time.After(metricsWait):
	case <-ctx.Done():
	}
	s.DiskRead, s.DiskWrit, _ = m.sums()
	return s, nil
}
