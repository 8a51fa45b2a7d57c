package agent_test

import (
	"sync"
	"syscall"
	"testing"

	"mvm"
	"mvm/internal/driver/fake"
)

// TestSleepOfUnwillingGuests: a guest that does not drain properly is put to sleep
// all the same, on record.
func TestSleepOfUnwillingGuests(t *testing.T) {
	only := []string{"SleepPrep"}
	for what, b := range map[string]fake.Behavior{
		"never answers": {Silent: true, Only: only},
		"garbage":       {Garbage: true, Only: only},
		"oversized":     {Oversized: true, Only: only},
		"truncated":     {Truncated: true, Only: only},
		"another type":  {WrongType: true, Only: only},
		"refuses":       {Refuse: "no", Only: only},
		"busy":          {NackSleepPrep: "a turn is running"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.start()
			i := h.instance()
			h.host.Behave(i.ID, b)
			if got := h.do(i.ID, mvm.OpSleep); got.State != mvm.StateSleeping {
				t.Errorf("%s, want sleeping", got.State)
			}
			if n := count(h.actions("acme"), mvm.DrainTimedOut); n != 1 {
				t.Errorf("%d DrainTimedOut events, want 1", n)
			}
			h.host.Behave(i.ID, fake.Behavior{})
			if got := h.do(i.ID, mvm.OpWake); got.Last.Kind != "warm" {
				t.Errorf("wake was %s: %s", got.Last.Kind, got.Last.Reason)
			}
		})
	}
}

// TestWakeOfUnwillingGuests: no traffic without an open gate; a guest that does not
// take its configuration is booted from disk, on record.
func TestWakeOfUnwillingGuests(t *testing.T) {
	for what, b := range map[string]fake.Behavior{
		"never answers":  {Silent: true},
		"nacks":          {NackConfigure: "no network"},
		"stale secrets":  {StaleSecrets: true},
		"dies on resume": {DieOnResume: true},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.opt.Fail = func(op fake.Op, id string) error {
				if op == fake.OpStart { // the fresh boot behaves well
					h.host.Behave(id, fake.Behavior{})
				}
				return nil
			}
			h.start()
			i := h.instance()
			h.do(i.ID, mvm.OpSleep)
			h.host.Behave(i.ID, b)
			got := h.do(i.ID, mvm.OpWake)
			if got.State != mvm.StateRunning || got.Last.Kind != "cold" || got.Last.Reason == "" {
				t.Errorf("%s by %q (%q), want running by cold, with the reason", got.State, got.Last.Kind, got.Last.Reason)
			}
		})
	}
}

func TestFullDiskDuringSleep(t *testing.T) {
	for _, op := range []fake.Op{fake.OpSnapshotState, fake.OpSnapshotMemory} {
		h := newHost(t)
		full := true
		h.opt.Fail = func(o fake.Op, _ string) error {
			if o == op && full {
				return syscall.ENOSPC
			}
			return nil
		}
		h.start()
		i := h.instance()
		h.exec(i.ID, "true")
		_, err := h.a.Operate(ctx(t), mvm.Address{Instance: i.ID}, mvm.OpRequest{Op: mvm.OpSleep}, nil)
		if err == nil {
			t.Fatalf("%s: slept on a full disk", op)
		}
		got, _ := h.a.Instance(ctx(t), mvm.Address{Instance: i.ID})
		if got.State != mvm.StateRunning || got.Op != nil || got.Snapshot != nil {
			t.Errorf("%s: %s with op %v, want running as before", op, got.State, got.Op)
		}
		h.exec(i.ID, "true")
		full = false
		h.do(i.ID, mvm.OpSleep)
		h.do(i.ID, mvm.OpWake)
	}
}

// TestVMMDies: an instance whose VMM ends by itself is stopped, with the reason,
// and starts again.
func TestVMMDies(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	for _, end := range []func(string) bool{h.host.Crash, h.host.Poweroff} {
		if !end(i.ID) {
			t.Fatal("no VMM")
		}
		waitUntil(t, func() bool {
			got, err := h.a.Instance(ctx(t), mvm.Address{Instance: i.ID})
			return err == nil && got.State == mvm.StateStopped && got.Op == nil
		})
		h.do(i.ID, mvm.OpStart)
	}
}

// TestVMMDiesUnderADeploy: a VMM that ends before or while its instance is resumed for a
// deploy is no failure of the deploy, which goes on with the instance as after any crash.
func TestVMMDiesUnderADeploy(t *testing.T) {
	for _, point := range []string{"resume.begin:before", "resume.resume:before"} {
		t.Run(point, func(t *testing.T) {
			h := newHost(t)
			h.start()
			d := deployment(desired(worker("workers"), 1, 0, 0))
			if err := h.apply(d); err != nil {
				t.Fatal(err)
			}
			i := h.all("workers")[0]
			h.do(i.ID, mvm.OpWarm)
			var once sync.Once
			died := false
			h.onSeam(func(p string) error {
				if p == point {
					once.Do(func() { died = h.host.Crash(i.ID) })
				}
				return nil
			})
			if _, err := h.a.Apply(ctx(t), d, mvm.ApplyOptions{Force: true}, func(mvm.Progress) {}); err != nil {
				t.Errorf("deploy: %v", err)
			}
			if got := h.get(i.ID); !died || got.State != mvm.StateRunning || !got.Ready || got.Problem != "" {
				t.Errorf("VMM killed: %v; then the instance is %s, ready %v, problem %q", died, got.State, got.Ready, got.Problem)
			}
		})
	}
}

// TestHostReboot: what ran is started again, what slept sleeps and keeps its memory.
func TestHostReboot(t *testing.T) {
	h := newHost(t)
	h.start()
	ran := h.instance()
	slept, err := h.a.CreateInstance(ctx(t), "acme", "workers", "")
	if err != nil {
		t.Fatal(err)
	}
	h.do(slept.ID, mvm.OpStart)
	boot := h.exec(slept.ID, "cat", "/proc/sys/kernel/random/boot_id")
	h.do(slept.ID, mvm.OpSleep)
	h.stop()
	h.host.Reboot()
	h.start()
	waitUntil(t, func() bool { n, _ := h.a.Queued(ran.ID); return n == 0 })
	if got, _ := h.a.Instance(ctx(t), mvm.Address{Instance: ran.ID}); got.State != mvm.StateRunning || got.Last.Kind != "cold" {
		t.Errorf("what ran is %s by %q, want running again by a cold boot", got.State, got.Last.Kind)
	}
	h.do(slept.ID, mvm.OpWake)
	if got := h.exec(slept.ID, "cat", "/proc/sys/kernel/random/boot_id"); got != boot {
		t.Error("what slept lost its memory")
	}
}

func TestSecretsReachGuests(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	set := func(v string) {
		t.Helper()
		if _, err := h.a.SetSecrets(ctx(t), "acme", map[string][]byte{"token": []byte(v)}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(v string) {
		t.Helper()
		if got := h.exec(i.ID, "cat", "/run/secrets/token"); got != v {
			t.Errorf("guest has %q, want %q", got, v)
		}
	}
	set("one")
	want("one")
	h.do(i.ID, mvm.OpSleep)
	set("two")
	h.do(i.ID, mvm.OpWake)
	want("two")
	if got, _ := h.a.Instance(ctx(t), mvm.Address{Instance: i.ID}); got.SecretsGeneration != 2 {
		t.Errorf("generation %d, want 2", got.SecretsGeneration)
	}
}
