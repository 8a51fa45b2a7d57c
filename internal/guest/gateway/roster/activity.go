package roster

import (
	"context"
	"slices"
	"strings"
	"time"

	"mvm/internal/guestproto"
)

// report is what the host was told of a worker last.
type report struct {
	active, open int
	last         int64 // worker.last
	answered     bool
}

// Bounds of one report to the host.
const (
	maxReported   = 512
	reportTimeout = 10 * time.Second
)

// report tells the host how busy instances are, while something changes and at
// most every Limits.Report. An idle gateway does not wake for it.
func (ro *Roster) report() {
	for {
		select {
		case <-ro.dirty:
		case <-ro.ctx.Done():
			return
		}
		for more := true; more; {
			timer := time.NewTimer(ro.lim.Report)
			select {
			case <-timer.C:
			case <-ro.ctx.Done():
				timer.Stop()
				return
			}
			more = ro.reportOnce()
		}
	}
}

// reportOnce sends what has changed, and says whether more is to come without
// further traffic: a failed report, or a stream that will count as quiet.
func (ro *Roster) reportOnce() bool {
	now := ro.now()
	changed, told, more := ro.changes(now)
	if len(changed) == 0 {
		return more
	}
	ctx, cancel := context.WithTimeout(ro.ctx, reportTimeout)
	defer cancel()
	for part := range slices.Chunk(changed, maxReported) {
		if err := ro.host.ReportActivity(ctx, guestproto.ReportActivity{Instances: part}); err != nil {
			ro.log.Warn("activity not reported", "instances", len(part), "error", err)
			return true
		}
		ro.confirm(part, told)
	}
	return more
}

// changes lists the workers that differ from what the host was told.
func (ro *Roster) changes(now time.Time) (changed []guestproto.Activity, told map[string]report, more bool) {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	mono := ro.mono()
	told = map[string]report{}
	for id, w := range ro.workers {
		r := report{active: w.active(mono, ro.lim.Quiet), open: w.load(), last: w.last.Load(), answered: w.answered.Load()}
		if r.active > 0 && len(w.streams) > 0 {
			more = true
		}
		if r == w.reported {
			if w.forgettable() {
				delete(ro.workers, id)
			}
			continue
		}
		told[id] = r
		changed = append(changed, guestproto.Activity{InstanceID: id, Boot: w.boot, Connections: r.active, Open: r.open, Answered: r.answered,
			LastActive: now.Add(time.Duration(r.last) - mono)})
	}
	slices.SortFunc(changed, func(a, b guestproto.Activity) int { return strings.Compare(a.InstanceID, b.InstanceID) })
	return changed, told, more
}

// Use says how many requests and streams to the instance there are, and when bytes
// last passed.
func (ro *Roster) Use(instance string) (open int, last time.Time) {
	now := ro.now()
	ro.mu.Lock()
	defer ro.mu.Unlock()
	w := ro.workers[instance]
	if w == nil {
		return 0, time.Time{}
	}
	return w.load(), now.Add(time.Duration(w.last.Load()) - ro.mono())
}

// confirm notes that the host knows the part, and forgets workers that are history.
func (ro *Roster) confirm(part []guestproto.Activity, told map[string]report) {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	for _, a := range part {
		w := ro.workers[a.InstanceID]
		if w == nil {
			continue
		}
		w.reported = told[a.InstanceID]
		if w.forgettable() && w.last.Load() == w.reported.last && w.reported.open == 0 {
			delete(ro.workers, a.InstanceID)
		}
	}
}
