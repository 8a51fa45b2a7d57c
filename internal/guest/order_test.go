package guest_test

import (
	"crypto/sha256"
	"slices"
	"strings"
	"testing"
	"time"

	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
)

// Of two Configures the one with newer secrets stays in force, whichever comes last.
func TestOlderConfigureUndoesNothing(t *testing.T) {
	m := newMachine(t)
	with := func(generation int, secret string) guestproto.Configure {
		c := boot()
		c.Generation, c.Secrets, c.Env = generation, map[string][]byte{"token": []byte(secret)}, map[string]string{"A": secret}
		digest := sha256.Sum256([]byte(secret))
		c.Digest = digest[:]
		return c
	}
	newer := with(3, "new")
	m.mustConfigure(newer)
	if ack := m.configure(with(2, "old")); ack.Success || ack.Detail == nil || !strings.Contains(*ack.Detail, "overtaken") {
		t.Errorf("an older one: %+v, want it refused", ack)
	}
	if got := readFile(t, m.paths.Secrets+"/token"); got != "new" {
		t.Errorf("the secret is %q after it, want the newer", got)
	}
	var digest [32]byte
	copy(digest[:], newer.Digest)
	greet := func() bool {
		r, err := guestproto.DecodeResumed(m.agent.Resume(guestproto.Resume{UnixNanos: time.Now().UnixNano(), Digest: digest}.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		return r.InForce
	}
	if !greet() {
		t.Error("the newer one is no longer in force")
	}
	same := with(3, "new")
	same.Env = map[string]string{"A": "changed"}
	m.mustConfigure(same) // the same generation is not older: its other fields may have changed
}

// The host renews what holds still before the first of all leases is over.
func TestShortestLeaseIsReported(t *testing.T) {
	for _, leases := range [][]int{{90_000, 40_000, 60_000}, {40_000, 60_000, 90_000}, {60_000, 90_000, 40_000}, {0, 40_000, 90_000}, {90_000, 40_000, 0}} {
		var services []workload.Service
		for n, lease := range leases {
			w := newWorkload(t)
			w.lease = lease
			services = append(services, workload.Service{Name: string(rune('a' + n)), Command: sh("exec sleep 1000"), Suspend: w.URL + "/suspend"})
		}
		m := newMachine(t, services...)
		m.mustConfigure(boot())
		for _, s := range services {
			m.awaitState(s.Name, "ready")
		}
		ack := m.suspend(10)
		if !ack.Success || ack.LeaseMS != 40_000 {
			t.Errorf("leases of %v ms: told %+v, want 40000", leases, ack)
		}
		m.settle()
	}
}

// A greeting steps the clock by the time that the vCPUs stood still. A clock that is
// behind the greeting after that was wrong before, and takes its time; one that is ahead
// is left alone.
func TestGreetingSetsAClockThatIsBehind(t *testing.T) {
	m := newMachine(t)
	m.mustConfigure(boot())
	greet := func(sent time.Time) []string {
		t.Helper()
		m.sys.did()
		r, err := guestproto.DecodeResumed(m.agent.Resume(guestproto.Resume{UnixNanos: sent.UnixNano(), AdvanceNanos: int64(time.Hour)}.Encode()))
		if err != nil || !r.Clean {
			t.Fatalf("greeting: %+v, %v", r, err)
		}
		if m.sys.step != time.Hour {
			t.Errorf("the clock was stepped by %s, want an hour", m.sys.step)
		}
		return m.sys.did()
	}
	ahead := time.Now().Add(24 * time.Hour) // this machine's clock is behind it
	if ops := greet(ahead); !slices.Equal(ops, []string{"step", "clock", "entropy"}) || !m.sys.clock.Equal(ahead) {
		t.Errorf("a clock that is behind: %v, set to %s, want %s", ops, m.sys.clock, ahead)
	}
	if ops := greet(time.Now().Add(-time.Hour)); !slices.Equal(ops, []string{"step", "entropy"}) {
		t.Errorf("a clock that is ahead: %v, want it left alone", ops)
	}
}
