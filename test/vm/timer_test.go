package vm_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"mvm"
	"mvm/internal/store"
	"mvm/internal/testenv"
)

// reminder is a workload of builtin:minimal that does something at a time, five times: it says
// when, waits for that time, and writes both down. It knows the time also after a boot. The third
// is further ahead than a boot takes.
const reminder = `
next() { echo "$1" > /run/mvm/.next; mv /run/mvm/.next /run/mvm/next-wake; }
touch /data/done
while [ $(wc -l < /data/done) -lt 5 ]; do
	ahead=%d
	[ $(wc -l < /data/done) -ne 2 ] || ahead=%d
	[ -s /data/at ] || echo $(( $(date +%%s) + ahead )) > /data/at
	sync
	at=$(cat /data/at)
	next ${at}000
	while [ $(date +%%s) -lt $at ]; do sleep 1; done
	echo $at $(date +%%s) >> /data/done
	rm /data/at
	sync
done
next ""
exec sleep 100000`

// ahead is how far ahead the workload's times are.
const (
	ahead       = 35 * time.Second
	aheadOfBoot = 5 * time.Minute
)

// afterBoot is how late a workload may be whose machine has to boot for it.
const afterBoot = 150 * time.Second

// TestTimer: a workload that sleeps is woken for what it wants to do, and does that in time,
// though its clock was an hour behind when it went to sleep; also one whose time comes while no
// agent runs, and one whose snapshot is gone, so that its machine boots, early enough for that. The host's clock may be
// set meanwhile, forward and back: what counts is the time of day.
func TestTimer(t *testing.T) {
	t.Parallel()
	h := newHost(t, "qemu")
	h.deploy("[tenant]\nid = \"acme\"\n[[pools]]\nid = \"workers\"\nflake = \"builtin:minimal\"\nvcpus = 1\nmem_mib = 128\ndata_disk_mib = 16\n" +
		"desired_running = 1\nenv = { MVM_COMMAND = '''" + fmt.Sprintf(reminder, int(ahead.Seconds()), int(aheadOfBoot.Seconds())) + "''' }\n")
	id := h.only("workers").ID
	testenv.Eventually(t, patience, func() error { // it has told its time
		if i := h.get(id); i.NextWake.IsZero() {
			return fmt.Errorf("it has no next wake")
		}
		return nil
	})
	_, err := h.exec(id, "/bin/sh", "-c", "date -s @$(( $(date +%s) - 3600 ))")
	must(t, err)
	at := h.sleepsUntil(id)
	h.wokenFor(id, 1, "warm")
	first := h.doneAt(id, 0)
	if late := first[1].Sub(first[0]); !first[0].Equal(at.Truncate(time.Second)) || late < 0 || late > 3*time.Second {
		t.Errorf("it did at %v what it wanted to do at %v, and told %v\n%s", first[1], first[0], at, h.log())
	}

	at = h.sleepsUntil(id)
	h.stop()
	h.setClock(at.Add(2 * time.Second))
	h.start()
	h.wokenFor(id, 2, "warm")
	if second := h.doneAt(id, 1); !second[0].Equal(at.Truncate(time.Second)) {
		t.Errorf("it did what it wanted to do at %v, and told %v", second[0], at)
	}

	at = h.sleepsUntil(id)
	h.loseSnapshot(id)
	took := h.bootTook(id)
	h.setClock(at.Add(-took*5/4 - time.Minute/2)) // a boot begins soon
	h.wokenFor(id, 3, "cold")
	early := at.Add(-h.ahead).Sub(h.get(id).Last.Started)
	third := h.doneAt(id, 2)
	late := third[1].Sub(third[0])
	t.Logf("it was booted %s before its time, which took %s, and before %s; it was %s late", early, h.bootTook(id), took, late)
	if !third[0].Equal(at.Truncate(time.Second)) || late < 0 || late > afterBoot || early < took {
		t.Errorf("after a boot, which began %s early, it did at %v what it wanted to do at %v, and told %v\n%s", early, third[1], third[0], at, h.log())
	}
	at = h.sleepsUntil(id)
	h.setClock(at.Add(-nearly))
	h.inTime(id, 4, at)

	at = h.sleepsUntil(id)
	due := time.Now().Add(at.Sub(h.now()))
	h.setClock(h.now().Add(-time.Hour))
	time.Sleep(time.Until(due))
	if i := h.get(id); i.State != mvm.StateSleeping || h.events(id, mvm.TimerFired) != 4 {
		t.Errorf("it is %s, by %s, an hour before its time", i.State, i.Last.By)
	}
	h.setClock(at.Add(-nearly))
	h.inTime(id, 5, at)
	testenv.Eventually(t, patience, func() error {
		if i := h.get(id); !i.NextWake.IsZero() || i.State != mvm.StateRunning {
			return fmt.Errorf("it is %s, and its next wake %v, of which it has none", i.State, i.NextWake)
		}
		return nil
	})
	h.setClock(h.now().Add(-time.Hour))
	testenv.Eventually(t, patience, func() error { return h.rightTime(id) })
}

// bootTook is how long the instance took to boot last.
func (h *host) bootTook(id string) time.Duration {
	h.t.Helper()
	story, err := h.client.Why(h.ctx(), mvm.Address{Instance: id})
	must(h.t, err)
	for _, t := range slices.Backward(story.Transitions) {
		if store.Booted(t) {
			return t.Took
		}
	}
	h.t.Fatal("no boot is on record")
	return 0
}

// nearly is before a time, when it is high time to wake for it.
const nearly = 12 * time.Second

// inTime waits until the instance was woken for that time, as the so manieth one, and has done
// what it wanted then. Its clock is the host's.
func (h *host) inTime(id string, n int, at time.Time) {
	h.t.Helper()
	h.wokenFor(id, n, "warm")
	did := h.doneAt(id, n-1)
	if late := did[1].Sub(did[0]); !did[0].Equal(at.Truncate(time.Second)) || late < 0 || late > 3*time.Second {
		h.t.Errorf("it did at %v what it wanted to do at %v, and told %v\n%s", did[1], did[0], at, h.log())
	}
	must(h.t, h.rightTime(id))
}

// rightTime says of an instance whose clock is not the host's what it shows.
func (h *host) rightTime(id string) error {
	before := h.now()
	out, err := h.exec(id, "date", "+%s")
	if err != nil {
		return err
	}
	secs, err := strconv.ParseInt(out, 10, 64)
	if err != nil {
		return err
	}
	if now := time.Unix(secs, 0); now.Before(before.Add(-2*time.Second)) || now.After(h.now().Add(time.Second)) {
		return fmt.Errorf("its clock is at %v, the host's went from %v to %v", now, before, h.now())
	}
	return nil
}

// now is the time of day, as the agent has it.
func (h *host) now() time.Time { return time.Now().Round(0).Add(h.ahead) }

// setClock sets the agent's clock.
func (h *host) setClock(to time.Time) {
	h.t.Helper()
	h.ahead = time.Until(to)
	must(h.t, os.WriteFile(h.path(setFile)+".new", []byte(h.ahead.String()), 0o600))
	must(h.t, os.Rename(h.path(setFile)+".new", h.path(setFile)))
	if h.agent == nil {
		return // it takes that when it starts
	}
	must(h.t, h.agent.Process.Signal(syscall.SIGUSR1))
	testenv.Eventually(h.t, patience, func() error {
		if _, err := os.Stat(h.path(setFile)); !errors.Is(err, fs.ErrNotExist) {
			return errors.New("the agent has not set its clock")
		}
		return nil
	})
}

// sleepsUntil puts the instance to sleep, and returns its next wake, which is ahead.
func (h *host) sleepsUntil(id string) time.Time {
	h.t.Helper()
	testenv.Eventually(h.t, patience, func() error {
		if i := h.get(id); i.NextWake.Before(h.now()) {
			return fmt.Errorf("its next wake is %v", i.NextWake)
		}
		return nil
	})
	i := h.do(id, mvm.OpSleep)
	if i.State != mvm.StateSleeping || i.NextWake.Before(h.now()) {
		h.t.Fatalf("it is %s, and its next wake %v", i.State, i.NextWake)
	}
	return i.NextWake
}

// loseSnapshot removes the files of the snapshot of an instance that sleeps.
func (h *host) loseSnapshot(id string) {
	h.t.Helper()
	lost := 0
	must(h.t, filepath.WalkDir(filepath.Join(h.data, "instances", id), func(path string, d fs.DirEntry, err error) error {
		name, relErr := filepath.Rel(h.data, path)
		if err = errors.Join(err, relErr); err != nil || !d.Type().IsRegular() || !inSnapshot(name) {
			return err
		}
		lost++
		return os.Remove(path)
	}))
	if lost == 0 {
		h.t.Fatal("it has no snapshot")
	}
}

// wokenFor waits until the instance was woken so many times by its timer, in such a way.
func (h *host) wokenFor(id string, times int, kind string) {
	h.t.Helper()
	testenv.Eventually(h.t, patience, func() error {
		if n := h.events(id, mvm.TimerFired); n != times {
			return fmt.Errorf("woken %d times", n)
		}
		return nil
	})
	if i := h.get(id); i.State != mvm.StateRunning || i.Last.By.Kind != mvm.AskerTimer || string(i.Last.Kind) != kind {
		h.t.Errorf("it is %s, by %s, %s", i.State, i.Last.By, i.Last.Kind)
	}
}

// doneAt waits until the workload has done the work of the number, and returns when it wanted
// to do that, and when it did.
func (h *host) doneAt(id string, n int) (at [2]time.Time) {
	h.t.Helper()
	testenv.Eventually(h.t, patience, func() error {
		out, err := h.exec(id, "cat", "/data/done")
		if err != nil {
			return err
		}
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if len(lines) != n+1 || len(strings.Fields(lines[n])) != len(at) { // it may be read while it is written
			return fmt.Errorf("it has done %q", lines)
		}
		for k, text := range strings.Fields(lines[n]) {
			secs, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return fmt.Errorf("it has done %q", lines)
			}
			at[k] = time.Unix(secs, 0)
		}
		return nil
	})
	return at
}
