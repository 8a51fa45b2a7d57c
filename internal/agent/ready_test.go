package agent_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/policy"
	"mvm/internal/ready"
	"mvm/internal/testenv"
)

// readyHost is a host that keeps memory ready, with an instance that runs.
func readyHost(t *testing.T) (*host, mvm.Instance) {
	h := newHost(t)
	h.keptReady = ready.Limits{Percent: 10, TenantPercent: 50, Keep: time.Hour, FreePercent: 5}
	h.memory = func() (policy.Memory, error) {
		return policy.Memory{TotalMiB: 16384, AvailableMiB: 8192, Stalled: -1}, nil
	}
	h.start()
	return h, h.plain()
}

// readyBytes is what is kept of the instance, and of all.
func (h *host) readyBytes(id string) (own, all int64) {
	h.t.Helper()
	s, err := h.a.Stats(ctx(h.t), mvm.Address{Instance: id})
	if err != nil {
		h.t.Fatal(err)
	}
	n, err := h.a.NodeStats(ctx(h.t))
	if err != nil {
		h.t.Fatal(err)
	}
	if (n.Ready > 0) != (n.ReadyBytes > 0) {
		h.t.Errorf("%d instances are ready, with %d bytes", n.Ready, n.ReadyBytes)
	}
	return s.ReadyBytes, n.ReadyBytes
}

// sleepsReady puts the instance to sleep and waits until its memory is ready.
func (h *host) sleepsReady(id string) {
	h.t.Helper()
	h.do(id, mvm.OpSleep)
	testenv.Eventually(h.t, 10*time.Second, func() error {
		if own, _ := h.readyBytes(id); own == 0 {
			return errors.New("nothing is ready")
		}
		return nil
	})
}

// sleepsAnew is sleepsReady of a guest that has changed its memory.
func (h *host) sleepsAnew(id string) (note string) {
	h.t.Helper()
	h.notes++
	note = fmt.Sprint("note ", h.notes)
	h.sleepsWith(id, note)
	return note
}

// sleepsWith is sleepsReady of a guest that has written the note to its memory.
func (h *host) sleepsWith(id, note string) {
	h.t.Helper()
	_, err := h.a.Exec(ctx(h.t), mvm.Address{Instance: id}, mvm.ExecSpec{Argv: []string{"tee", "/tmp/note"}}, mvm.ExecIO{Stdin: strings.NewReader(note), Stdout: io.Discard, Stderr: io.Discard})
	if err != nil {
		h.t.Fatal(err)
	}
	h.sleepsReady(id)
}

// wakesFrom wakes the instance, which has its memory, from a tier.
func (h *host) wakesFrom(when, id, tier, note string) {
	h.t.Helper()
	before := h.metrics.of("restored " + tier)
	h.do(id, mvm.OpWake)
	if h.metrics.of("restored "+tier) != before+1 {
		h.t.Errorf("%s: it did not wake from %s", when, tier)
	}
	if got := h.exec(id, "cat", "/tmp/note"); got != note {
		h.t.Errorf("%s: its memory has %q, want %q", when, got, note)
	}
	if own, all := h.readyBytes(id); own != 0 || all != 0 {
		h.t.Errorf("%s: awake, %d bytes of it are kept, and %d of all", when, own, all)
	}
}

// An instance wakes from memory that was kept of its last sleep, also where its segments can't be
// read any more. An agent that starts has none.
func TestWakesFromReadyMemory(t *testing.T) {
	h, i := readyHost(t)
	for range 3 {
		note := h.sleepsAnew(i.ID)
		h.wakesFrom("a wake", i.ID, ready.TierReady, note)
	}
	note := h.sleepsAnew(i.ID)
	h.stop()
	h.start()
	h.wakesFrom("after the agent started again", i.ID, ready.TierSegments, note)
}

// A segment that is lost while its guest is awake is written again by the next sleep, though the
// guest did not change what it had.
func TestLostSegmentIsWrittenAgain(t *testing.T) {
	h, i := readyHost(t)
	note := strings.Repeat("U", 200_000) // also in base64 it is one letter again and again: all pages of it are equal
	h.sleepsWith(i.ID, note)
	h.wakesFrom("at first", i.ID, ready.TierReady, note)
	h.sleepsReady(i.ID)
	all, err := filepath.Glob(h.durable(i, "segments", "seg-*"))
	if err != nil || len(all) < 2 {
		t.Fatalf("segments %q, %v; want one of each sleep", all, err)
	}
	for _, path := range all {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	h.wakesFrom("without segments", i.ID, ready.TierReady, note)
	h.sleepsReady(i.ID)
	h.stop()
	h.start()
	h.wakesFrom("the next sleep wrote what was lost", i.ID, ready.TierSegments, note)
}

// A wake that fails does not use the memory that was kept for it again: what a VMM had may have
// been written to.
func TestFailedWakeReadsTheDisk(t *testing.T) {
	h, i := readyHost(t)
	note := h.sleepsAnew(i.ID)
	fails := 1
	h.failing(func(op fake.Op, _ string) error {
		if op == fake.OpRestoreLoad && fails > 0 {
			fails--
			return errors.New("the VMM is killed")
		}
		return nil
	})
	before := h.metrics.of("restored ready")
	h.do(i.ID, mvm.OpWake)
	if h.exec(i.ID, "cat", "/tmp/note") != note || h.metrics.of("restored ready") > before+1 {
		t.Error("it did not wake with its memory")
	}
	note = h.sleepsAnew(i.ID)
	h.wakesFrom("afterwards", i.ID, ready.TierReady, note)
}

// Memory goes with its instance, with its snapshot, and with its tenant.
func TestReadyMemoryIsGivenBack(t *testing.T) {
	for name, end := range map[string]func(*host, mvm.Instance) error{
		"stopped":          func(h *host, i mvm.Instance) error { return h.try(i.ID, mvm.OpStop) },
		"destroyed":        func(h *host, i mvm.Instance) error { return h.destroy(i.ID) },
		"tenant destroyed": func(h *host, i mvm.Instance) error { return h.a.DestroyTenant(ctx(h.t), i.Tenant, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			h, i := readyHost(t)
			h.sleepsReady(i.ID)
			if err := end(h, i); err != nil {
				t.Fatal(err)
			}
			n, err := h.a.NodeStats(ctx(t))
			if err != nil || n.Ready != 0 || n.ReadyBytes != 0 {
				t.Errorf("%d instances are ready, with %d bytes, %v", n.Ready, n.ReadyBytes, err)
			}
		})
	}
}

// An agent that is killed at any step of a sleep or a wake leaves a guest with its memory.
func TestKilledWithReadyMemory(t *testing.T) {
	for _, point := range []string{"sleep.snapshot:after", "sleep.commit:before", "sleep.commit:after", "sleep.release:before", "sleep.release:after",
		"wake.restore:before", "wake.restore:after", "wake.consume:before"} {
		t.Run(point, func(t *testing.T) {
			h, i := readyHost(t)
			h.sleepsAnew(i.ID)
			h.do(i.ID, mvm.OpWake)
			op, note := mvm.OpWake, h.sleepsAnew(i.ID)
			if point[:5] == "sleep" {
				op = mvm.OpSleep
				h.do(i.ID, mvm.OpWake)
			}
			h.crashDuring(point, i.ID, mvm.Asker{Kind: mvm.AskerCLI, ID: "test"}, mvm.OpRequest{Op: op})
			h.do(i.ID, mvm.OpWake)
			if got := h.exec(i.ID, "cat", "/tmp/note"); got != note {
				t.Errorf("its memory has %q, want %q", got, note)
			}
			note = h.sleepsAnew(i.ID)
			h.wakesFrom("afterwards", i.ID, ready.TierReady, note)
		})
	}
}

// A snapshot that is another one on the disk than the one that was kept is not met by it.
func TestReadyMemoryOfAnotherSnapshot(t *testing.T) {
	h, i := readyHost(t)
	h.sleepsReady(i.ID)
	path := h.durable(i, "snapshots", h.get(i.ID).Snapshot.ID, "map")
	if err := os.WriteFile(path, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := h.do(i.ID, mvm.OpWake); got.Last.Kind != "cold" || h.metrics.of("restored ready") > 0 {
		t.Errorf("it woke %q, %d times from what was kept", got.Last.Kind, h.metrics.of("restored ready"))
	}
	if _, err := os.Stat(filepath.Dir(path)); err == nil {
		t.Error("its snapshot is still there")
	}
}
