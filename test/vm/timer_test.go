package vm_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/testenv"
)

// reminder is a workload of builtin:minimal that does something at a time, twice: it says
// when, waits for that time, and writes both down.
const reminder = `
next() { echo "$1" > /run/mvm/.next; mv /run/mvm/.next /run/mvm/next-wake; }
for n in 1 2; do
	at=$(( $(date +%%s) + %d ))
	next ${at}000
	while [ $(date +%%s) -lt $at ]; do sleep 1; done
	echo $at $(date +%%s) >> /data/done
	sync
done
next ""
exec sleep 100000`

// ahead is how far ahead the workload's times are.
const ahead = 35 * time.Second

// TestTimer: a workload that sleeps is woken for what it wants to do, and does that in time;
// also one whose time comes while no agent runs.
func TestTimer(t *testing.T) {
	t.Parallel()
	h := newHost(t, "qemu")
	h.deploy("[tenant]\nid = \"acme\"\n[[pools]]\nid = \"workers\"\nflake = \"builtin:minimal\"\nvcpus = 1\nmem_mib = 128\ndata_disk_mib = 16\n" +
		"desired_running = 1\nenv = { MVM_COMMAND = '''" + fmt.Sprintf(reminder, int(ahead.Seconds())) + "''' }\n")
	id := h.only("workers").ID
	at := h.sleepsUntil(id)
	h.wokenFor(id, 1)
	first := h.doneAt(id, 0)
	if late := first[1].Sub(first[0]); !first[0].Equal(at.Truncate(time.Second)) || late < 0 || late > 3*time.Second {
		t.Errorf("it did at %v what it wanted to do at %v, and told %v\n%s", first[1], first[0], at, h.log())
	}

	at = h.sleepsUntil(id)
	h.stop()
	time.Sleep(time.Until(at.Add(2 * time.Second)))
	h.start()
	h.wokenFor(id, 2)
	if second := h.doneAt(id, 1); !second[0].Equal(at.Truncate(time.Second)) {
		t.Errorf("it did what it wanted to do at %v, and told %v", second[0], at)
	}
	testenv.Eventually(t, patience, func() error {
		if i := h.get(id); !i.NextWake.IsZero() || i.State != mvm.StateRunning {
			return fmt.Errorf("it is %s, and its next wake %v, of which it has none", i.State, i.NextWake)
		}
		return nil
	})
}

// sleepsUntil puts the instance to sleep, and returns its next wake, which is ahead.
func (h *host) sleepsUntil(id string) time.Time {
	h.t.Helper()
	testenv.Eventually(h.t, patience, func() error {
		if i := h.get(id); time.Until(i.NextWake) < 0 {
			return fmt.Errorf("its next wake is %v", i.NextWake)
		}
		return nil
	})
	i := h.do(id, mvm.OpSleep)
	if i.State != mvm.StateSleeping || time.Until(i.NextWake) < 0 {
		h.t.Fatalf("it is %s, and its next wake %v", i.State, i.NextWake)
	}
	return i.NextWake
}

// wokenFor waits until the instance was woken so many times by its timer, with its memory.
func (h *host) wokenFor(id string, times int) {
	h.t.Helper()
	testenv.Eventually(h.t, patience, func() error {
		if n := h.events(id, mvm.TimerFired); n != times {
			return fmt.Errorf("woken %d times", n)
		}
		return nil
	})
	if i := h.get(id); i.State != mvm.StateRunning || i.Last.By.Kind != mvm.AskerTimer || i.Last.Kind != "warm" {
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
