package schedule_test

import (
	"fmt"
	"testing"
	"time"

	"mvm"
	"mvm/internal/schedule"
)

func TestNext(t *testing.T) {
	at := time.Date(2026, 11, 30, 9, 0, 0, 0, time.UTC)
	timer := schedule.Timer{ID: "i-00000001", At: at, State: mvm.StateSleeping, Changed: at.Add(-8 * time.Hour), Took: time.Second, Boot: 100 * time.Second, Looked: true}
	begin := timer.Begin()
	boot := begin.Add(-124 * time.Second) // 125 s for a boot instead of one for a wake
	with := func(change func(*schedule.Timer)) schedule.Timer {
		c := timer
		change(&c)
		return c
	}
	for name, c := range map[string]struct {
		timer schedule.Timer
		now   time.Time
		want  schedule.Do
		next  time.Time
	}{
		"not known whether it boots": {with(func(t *schedule.Timer) { t.Looked = false }), at.Add(-3 * time.Hour), schedule.Wait, boot},
		"time to look":               {with(func(t *schedule.Timer) { t.Looked = false }), boot, schedule.Look, time.Time{}},
		"too late to look early":     {with(func(t *schedule.Timer) { t.Looked = false }), at, schedule.Look, time.Time{}},
		"a boot that is as fast":     {with(func(t *schedule.Timer) { t.Looked, t.Boot = false, time.Second/10 }), at.Add(-3 * time.Hour), schedule.Wait, begin},
		"it need not boot":           {timer, boot, schedule.Wait, begin},
		"it has to boot":             {with(func(t *schedule.Timer) { t.Boots = "its files are gone" }), boot, schedule.Wake, time.Time{}},
		"not yet":                    {with(func(t *schedule.Timer) { t.Boots = "its files are gone" }), boot.Add(-time.Second), schedule.Wait, boot},
		"warm, which boots never":    {with(func(t *schedule.Timer) { t.Looked, t.State = false, mvm.StateWarm }), boot, schedule.Wait, begin},
		"stopped, which boots":       {with(func(t *schedule.Timer) { t.State = mvm.StateStopped }), boot.Add(-time.Second), schedule.Wait, boot},
		"hours before":               {timer, at.Add(-3 * time.Hour), schedule.Wait, begin},
		"its turn":                   {timer, begin, schedule.Wake, time.Time{}},
		"a moment late":              {timer, at.Add(30 * time.Second), schedule.Wake, time.Time{}},
		"missed":                     {timer, at.Add(5 * time.Hour), schedule.Wake, time.Time{}},
		"missed by more than a day":  {timer, at.Add(25 * time.Hour), schedule.Skip, time.Time{}},
		"missed, and skipped":        {with(func(t *schedule.Timer) { t.CatchUp = mvm.CatchUpSkip }), at.Add(5 * time.Hour), schedule.Skip, time.Time{}},
		"late, and not missed":       {with(func(t *schedule.Timer) { t.CatchUp = mvm.CatchUpSkip }), at.Add(time.Minute), schedule.Wake, time.Time{}},
		"none":                       {with(func(t *schedule.Timer) { t.At = time.Time{} }), at, schedule.Wait, time.Time{}},
		"warm":                       {with(func(t *schedule.Timer) { t.State = mvm.StateWarm }), begin, schedule.Wake, time.Time{}},
		"running":                    {with(func(t *schedule.Timer) { t.State = mvm.StateRunning }), begin, schedule.Wait, at},
		"running at its time":        {with(func(t *schedule.Timer) { t.State = mvm.StateRunning }), at, schedule.Meet, time.Time{}},
		"was awake at its time":      {with(func(t *schedule.Timer) { t.Met = at }), at, schedule.Wait, time.Time{}},
		"an operation is under way":  {with(func(t *schedule.Timer) { t.Busy = true }), at, schedule.Wait, time.Time{}},
		"stopped by itself":          {with(func(t *schedule.Timer) { t.State = mvm.StateStopped }), at, schedule.Wake, time.Time{}},
		"stopped by somebody":        {with(func(t *schedule.Timer) { t.State, t.Kept = mvm.StateStopped, true }), at, schedule.Wait, time.Time{}},
		"never started":              {with(func(t *schedule.Timer) { t.State = mvm.StateReady }), at, schedule.Wait, time.Time{}},
		"over when it slept":         {with(func(t *schedule.Timer) { t.Changed = at.Add(2 * time.Minute) }), at.Add(3 * time.Minute), schedule.Skip, time.Time{}},
		"over when it slept, all": {with(func(t *schedule.Timer) { t.Changed, t.CatchUp = at.Add(2*time.Minute), mvm.CatchUpAll }),
			at.Add(3 * time.Minute), schedule.Wake, time.Time{}},
		"all, one after the other": {with(func(t *schedule.Timer) { t.Last, t.CatchUp = at.Add(5*time.Hour), mvm.CatchUpAll }),
			at.Add(5*time.Hour + time.Second), schedule.Wait, at.Add(5*time.Hour + time.Minute)},
		"after a try that failed": {with(func(t *schedule.Timer) { t.Retry = at.Add(-3 * time.Second) }), at.Add(-6 * time.Second), schedule.Wait, at.Add(-3 * time.Second)},
	} {
		t.Run(name, func(t *testing.T) {
			got := schedule.Next(c.timer, c.now)
			if got.Do != c.want || !got.Next.Equal(c.next) {
				t.Errorf("got %+v, want %d, next %v", got, c.want, c.next)
			}
			if (got.Why != "") != (got.Do == schedule.Wake || got.Do == schedule.Skip) {
				t.Errorf("why %q", got.Why)
			}
		})
	}
}

// Of many with the same time few are woken at once, each always as much earlier, and all in
// time.
func TestEqualTimesAreSpread(t *testing.T) {
	at := time.Date(2026, 11, 30, 3, 0, 0, 0, time.UTC)
	perSecond := map[int64]int{}
	const timers = 2000
	for n := range timers {
		timer := schedule.Timer{ID: fmt.Sprintf("i-%08x", n*7919), At: at, Took: 500 * time.Millisecond}
		early := at.Sub(timer.Begin()) - timer.Took - schedule.Early
		if early < 0 || early >= schedule.Jitter {
			t.Fatalf("%s is woken %s earlier", timer.ID, early)
		}
		if !timer.Begin().Equal(timer.Begin()) {
			t.Fatal("it differs from one call to the next")
		}
		perSecond[int64(early/time.Second)]++
	}
	even := int(timers * time.Second / schedule.Jitter)
	for s := range int64(schedule.Jitter / time.Second) {
		if n := perSecond[s]; n < even/2 || n > 2*even {
			t.Errorf("%d of %d begin in second %d, want about %d", n, timers, s, even)
		}
	}
}

// A boot begins earlier than the last one took, within a bound, also where none is known.
func TestBootsBeginEarlier(t *testing.T) {
	at := time.Date(2026, 11, 30, 3, 0, 0, 0, time.UTC)
	before := func(boot time.Duration) time.Duration {
		return at.Sub(schedule.Timer{ID: "i-00000001", At: at, Took: time.Second, Boot: boot, Looked: true, Boots: "it is gone"}.Begin())
	}
	if d := before(3*time.Minute) - before(time.Minute); d != 150*time.Second {
		t.Errorf("2 minutes longer: %s earlier", d)
	}
	if d := before(9 * time.Hour); d > 61*time.Minute {
		t.Errorf("of nine hours: %s before its time", d)
	}
	if d := before(0); d < time.Minute {
		t.Errorf("where none is known: %s before its time", d)
	}
}

// A wake that took long last time begins earlier, within a bound.
func TestWakesBeginEarlier(t *testing.T) {
	at := time.Date(2026, 11, 30, 3, 0, 0, 0, time.UTC)
	begin := func(took time.Duration) time.Time {
		return schedule.Timer{ID: "i-00000001", At: at, Took: took}.Begin()
	}
	if d := begin(time.Second).Sub(begin(41 * time.Second)); d != 40*time.Second {
		t.Errorf("40 s longer: %s earlier", d)
	}
	if d := at.Sub(begin(time.Hour)); d > 3*time.Minute {
		t.Errorf("an hour: %s before its time", d)
	}
	if !begin(0).Before(begin(time.Second)) {
		t.Error("where nothing was measured it begins as for a fast one")
	}
}
