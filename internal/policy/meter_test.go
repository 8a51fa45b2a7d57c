package policy_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"mvm"
	"mvm/internal/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var t0 = time.Date(2026, 2, 11, 10, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return t0.Add(time.Duration(seconds * float64(time.Second))) }

// quietly is a sample of an instance that does nothing, running since t0.
func quietly(seconds float64) policy.Sample {
	return policy.Sample{At: at(seconds), Running: true, Since: t0, Guest: policy.Guest{Asked: at(seconds)}}
}

func settings() mvm.RuntimePolicy {
	p := mvm.DefaultRuntimePolicy()
	p.IdleCPUPercent, p.IdleBytesPerMinute = 10, 6000
	return p
}

// Each signal keeps an instance awake by itself, and says so by its name.
func TestSignals(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(s *policy.Sample, p *mvm.RuntimePolicy)
		want   string // "": idle
	}{
		{"nothing", func(*policy.Sample, *mvm.RuntimePolicy) {}, ""},
		{"cpu", func(s *policy.Sample, _ *mvm.RuntimePolicy) { s.CPU = 7200 * time.Millisecond }, "cpu 12% over the last 1m0s"},
		{"cpu at its limit", func(s *policy.Sample, _ *mvm.RuntimePolicy) { s.CPU = 6 * time.Second }, ""},
		{"cpu, another limit", func(s *policy.Sample, p *mvm.RuntimePolicy) { s.CPU, p.IdleCPUPercent = 6*time.Second, 9 }, "cpu 10% over the last 1m0s"},
		{"bytes", func(s *policy.Sample, _ *mvm.RuntimePolicy) { s.Bytes = 6001 }, "6001 bytes a minute over the last 1m0s"},
		{"bytes at their limit", func(s *policy.Sample, _ *mvm.RuntimePolicy) { s.Bytes = 6000 }, ""},
		{"a connection", func(s *policy.Sample, _ *mvm.RuntimePolicy) { s.Connections, s.Gateway = 1, "i-0000000a" },
			"1 connection is open through gateway i-0000000a"},
		{"connections", func(s *policy.Sample, _ *mvm.RuntimePolicy) { s.Connections, s.Gateway = 2, "i-0000000a" },
			"2 connections are open through gateway i-0000000a"},
		{"a connection that is quiet", func(s *policy.Sample, p *mvm.RuntimePolicy) {
			s.Connections, s.LastActive, p.QuietConnectionSeconds = 1, at(59), 30
		}, ""}, // at 120
		{"a connection that carried bytes", func(s *policy.Sample, p *mvm.RuntimePolicy) {
			s.Connections, s.Gateway, s.LastActive, p.QuietConnectionSeconds = 1, "i-0000000a", at(100), 30
		}, "1 connection is open through gateway i-0000000a"},
		{"a request that is quiet", func(s *policy.Sample, p *mvm.RuntimePolicy) {
			s.Connections, s.Active, s.Gateway, s.LastActive, p.QuietConnectionSeconds = 1, 1, "i-0000000a", at(59), 30
		}, "1 connection is open through gateway i-0000000a"},
		{"a command", func(s *policy.Sample, _ *mvm.RuntimePolicy) { s.Execs = 1 }, "1 command runs for `mvm exec`"},
		{"a published port", func(s *policy.Sample, _ *mvm.RuntimePolicy) { s.Published = 3 }, "3 connections to its published ports"},
		{"one to a published port", func(s *policy.Sample, _ *mvm.RuntimePolicy) { s.Published = 1 }, "1 connection to its published ports"},
		{"the guest", func(s *policy.Sample, _ *mvm.RuntimePolicy) { s.Guest.Busy = true }, "its guest says that it is busy"},
		{"the guest, with a reason", func(s *policy.Sample, _ *mvm.RuntimePolicy) {
			s.Guest.Busy, s.Guest.Reason = true, "worker-busy is set"
		}, "worker-busy is set"},
		{"a mute guest", func(s *policy.Sample, _ *mvm.RuntimePolicy) { s.Guest.MuteSince = at(30) }, "its guest has not answered for 1m30s"},
		{"a guest that is mute for long", func(s *policy.Sample, p *mvm.RuntimePolicy) {
			s.Guest.MuteSince, p.SleepAfterSeconds, p.WarmAfterSeconds = at(30), 0, 80
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var m policy.Meter
			p, s := settings(), quietly(120)
			c.change(&s, &p)
			m.Observe(quietly(60), p)
			m.Observe(s, p)
			if m.Awake() != c.want {
				t.Errorf("awake because %q, want %q", m.Awake(), c.want)
			}
			busy := 0
			for _, sig := range m.Signals() {
				if sig.Busy {
					busy++
				}
				if sig.Text == "" || sig.Name == "" {
					t.Errorf("signal %+v has no name or text", sig)
				}
			}
			if (busy > 0) != (c.want != "") {
				t.Errorf("signals %+v, want busy: %v", m.Signals(), c.want != "")
			}
			if c.want != "" && !m.IdleSince().Equal(at(120)) {
				t.Errorf("idle since %s, want not before now", m.IdleSince())
			}
		})
	}
}

func TestIdleSince(t *testing.T) {
	p := settings()
	var m policy.Meter
	step := func(s policy.Sample, awake bool, since time.Time) {
		t.Helper()
		m.Observe(s, p)
		if (m.Awake() != "") != awake || !m.IdleSince().Equal(since) {
			t.Fatalf("awake because %q, idle since %s; want awake %v, %s", m.Awake(), m.IdleSince(), awake, since)
		}
	}
	step(quietly(10), true, at(10)) // seen once is not watched
	step(quietly(20), false, at(10))
	busy := quietly(30)
	busy.Execs = 1
	step(busy, true, at(30))
	step(quietly(40), false, at(30))
	late := quietly(50)
	late.LastActive = at(45) // a request that came and went
	step(late, false, at(45))
	late.At, late.Guest.LastBusy = at(60), at(52)
	step(late, false, at(52))
	late.At, late.LastWanted = at(65), at(61)
	step(late, false, at(61))
	lie := quietly(70)
	lie.Guest.LastBusy = at(1e6)
	step(lie, false, at(70)) // a guest can't be busy in the future
	warm := policy.Sample{At: at(90), Since: at(80)}
	step(warm, false, at(70))
	again := quietly(100)
	again.Since, again.CPU, again.Guest.Asked = at(95), time.Hour, at(90) // CPU of the time before does not count
	step(again, true, at(95))
	again.At = at(105)
	step(again, true, at(95)) // the guest was not asked since
	again.At, again.Guest.Asked = at(110), at(110)
	step(again, false, at(95))
	reset := again
	reset.At, reset.CPU = at(120), 0 // another VMM
	step(reset, true, at(95))
}

// A warm one that was not seen before is idle since it is warm.
func TestWarmAfterRestart(t *testing.T) {
	var m policy.Meter
	m.Observe(policy.Sample{At: at(90), Since: at(80)}, settings())
	if m.Awake() != "" || !m.IdleSince().Equal(at(80)) {
		t.Errorf("awake because %q, idle since %s; want idle since it is warm", m.Awake(), m.IdleSince())
	}
}

func TestInterval(t *testing.T) {
	for _, c := range []struct {
		warm, sleep int
		want        time.Duration
	}{{300, 900, time.Minute}, {0, 0, time.Minute}, {0, 100, 20 * time.Second}, {2, 4, time.Second}, {50, 10, 2 * time.Second}} {
		if got := policy.Interval(mvm.RuntimePolicy{WarmAfterSeconds: c.warm, SleepAfterSeconds: c.sleep}); got != c.want {
			t.Errorf("warm after %d, sleep after %d: looked at every %s, want %s", c.warm, c.sleep, got, c.want)
		}
	}
}
