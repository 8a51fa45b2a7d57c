package policy

import (
	"fmt"
	"slices"
	"time"

	"mvm"
)

// Sample is what was seen of an instance at one moment.
type Sample struct {
	At      time.Time
	Running bool // its vCPUs run; of one that is warm nothing else is looked at
	// Since is when the instance came to its state.
	Since time.Time

	CPU   time.Duration // summed since its VMM started
	Bytes int64         // in and out, summed likewise

	Connections int       // open through gateways, requests included
	Active      int       // of them requests under way, and streams that carried bytes just now
	Gateway     string    // one that they go through
	LastActive  time.Time // last bytes that passed a gateway
	LastWanted  time.Time // when somebody last wanted it awake though it was idle
	Published   int       // of a gateway: connections to its published ports
	Execs       int       // commands that run in it for `mvm exec`
	Guest       Guest
}

// Guest is what the guest itself says.
type Guest struct {
	Asked    time.Time // when it was last asked; zero: not since it runs
	Busy     bool
	Reason   string
	LastBusy time.Time
	// MuteSince is when it was first asked without an answer, and none came since.
	MuteSince time.Time
}

// shortest is the least time over which CPU and bytes are measured.
const shortest = 500 * time.Millisecond

// Meter follows one instance from sample to sample, and knows how long it is idle.
// The zero value knows nothing yet. It is not safe for concurrent use.
type Meter struct {
	last      Sample
	cpu       mvm.IdleSignal // as last measured
	bytes     mvm.IdleSignal
	measured  bool // since the instance runs
	signals   []mvm.IdleSignal
	awake     string
	idleSince time.Time
}

// Awake is the signal by which the instance is in use, "" when all say that it is idle.
func (m *Meter) Awake() string { return m.awake }

// IdleSince is since when it is idle; it has no meaning as long as it is not.
func (m *Meter) IdleSince() time.Time { return m.idleSince }

// Complete reports whether the last sample of a running instance had all signals: CPU
// and bytes take two samples.
func (m *Meter) Complete() bool { return m.measured }

// Signals are all of them, as last seen.
func (m *Meter) Signals() []mvm.IdleSignal { return slices.Clone(m.signals) }

// Measured is when the instance was last looked at; zero: never.
func (m *Meter) Measured() time.Time { return m.last.At }

// Observe takes in a sample, by the pool's thresholds.
func (m *Meter) Observe(s Sample, p mvm.RuntimePolicy) {
	if !s.Running {
		m.observeWarm(s)
		return
	}
	if m.last.At.IsZero() { // what was before nobody knows
		m.idleSince = s.At
	}
	m.rates(s, p)
	m.signals = []mvm.IdleSignal{connections(s, p), execs(s)}
	if s.Published > 0 {
		m.signals = append(m.signals, mvm.IdleSignal{Name: "published", Busy: true,
			Text: plural(s.Published, "connection") + " to its published ports"})
	}
	m.signals = append(m.signals, guest(s, p), m.cpu, m.bytes)
	m.awake = ""
	for _, sig := range m.signals {
		if sig.Busy {
			m.awake = sig.Text
			break
		}
	}
	switch {
	case m.awake != "":
		m.idleSince = s.At
	case !m.measured || s.Guest.Asked.Before(s.Since) && s.Guest.MuteSince.IsZero():
		m.awake = "it has not been watched for long enough"
	}
	for _, t := range []time.Time{s.Since, s.LastActive, s.LastWanted, s.Guest.LastBusy} {
		if t.After(m.idleSince) {
			m.idleSince = t
		}
	}
	if m.idleSince.After(s.At) {
		m.idleSince = s.At
	}
	m.last = s
}

// observeWarm: a paused instance does nothing, and is idle since it was before.
func (m *Meter) observeWarm(s Sample) {
	if m.last.At.IsZero() || m.idleSince.IsZero() || m.idleSince.After(s.Since) {
		m.idleSince = s.Since
	}
	m.last, m.awake, m.measured = s, "", false
	m.signals = []mvm.IdleSignal{{Name: "cpu", Text: "it is paused"}}
}

// rates measures CPU and bytes since the sample before, where that belongs to the same
// run of the same VMM.
func (m *Meter) rates(s Sample, p mvm.RuntimePolicy) {
	took := s.At.Sub(m.last.At)
	if m.last.At.IsZero() || !m.last.Running || !m.last.Since.Equal(s.Since) || s.CPU < m.last.CPU || s.Bytes < m.last.Bytes {
		m.measured = false
		m.cpu = mvm.IdleSignal{Name: "cpu", Text: "cpu not measured yet"}
		m.bytes = mvm.IdleSignal{Name: "bytes", Text: "bytes not measured yet"}
		return
	}
	if took < shortest {
		return
	}
	m.measured = true
	maxCPU, maxBytes := p.IdleLimits()
	over := "over the last " + span(took)
	percent := 100 * float64(s.CPU-m.last.CPU) / float64(took)
	m.cpu = mvm.IdleSignal{Name: "cpu", Busy: percent > float64(maxCPU), Text: fmt.Sprintf("cpu %.3g%% %s", percent, over)}
	perMinute := float64(s.Bytes-m.last.Bytes) * float64(time.Minute) / float64(took)
	m.bytes = mvm.IdleSignal{Name: "bytes", Busy: perMinute > float64(maxBytes), Text: fmt.Sprintf("%.0f bytes a minute %s", perMinute, over)}
}

func connections(s Sample, p mvm.RuntimePolicy) mvm.IdleSignal {
	sig := mvm.IdleSignal{Name: "connections", Text: "no connection is open through a gateway"}
	if s.Connections == 0 {
		return sig
	}
	verb := " is open"
	if s.Connections > 1 {
		verb = "s are open"
	}
	sig.Text = fmt.Sprintf("%d connection%s through gateway %s", s.Connections, verb, s.Gateway)
	quiet := time.Duration(p.QuietConnectionSeconds) * time.Second
	sig.Busy = quiet == 0 || s.Active > 0 || s.At.Sub(s.LastActive) < quiet
	if !sig.Busy {
		sig.Text += fmt.Sprintf(", quiet for %s", span(s.At.Sub(s.LastActive)))
	}
	return sig
}

func execs(s Sample) mvm.IdleSignal {
	if s.Execs == 0 {
		return mvm.IdleSignal{Name: "exec", Text: "no command runs for `mvm exec`"}
	}
	verb := " runs"
	if s.Execs > 1 {
		verb = "s run"
	}
	return mvm.IdleSignal{Name: "exec", Busy: true, Text: fmt.Sprintf("%d command%s for `mvm exec`", s.Execs, verb)}
}

// guest is the guest's own word. One that does not answer may be at work, so it counts
// as busy, for as long as MuteBusy says.
func guest(s Sample, p mvm.RuntimePolicy) mvm.IdleSignal {
	g := s.Guest
	switch {
	case !g.MuteSince.IsZero():
		mute := s.At.Sub(g.MuteSince)
		return mvm.IdleSignal{Name: "guest", Busy: mute < MuteBusy(p), Text: "its guest has not answered for " + span(mute)}
	case g.Busy && g.Reason == "":
		return mvm.IdleSignal{Name: "guest", Busy: true, Text: "its guest says that it is busy"}
	case g.Busy:
		return mvm.IdleSignal{Name: "guest", Busy: true, Text: g.Reason}
	}
	return mvm.IdleSignal{Name: "guest", Text: "its guest says that it is idle"}
}

// MuteBusy is how long a guest that does not answer counts as busy: as long as an idle
// one of its pool is kept before it sleeps, and at least a minute. After that the
// other signals decide.
func MuteBusy(p mvm.RuntimePolicy) time.Duration {
	return max(time.Minute, seconds(p.SleepAfterSeconds), seconds(p.WarmAfterSeconds))
}

// Interval is how often an instance of a pool is looked at: five times in the shorter
// of its times, within 1 s and 1 min.
func Interval(p mvm.RuntimePolicy) time.Duration {
	least := time.Duration(0)
	for _, n := range []int{p.WarmAfterSeconds, p.SleepAfterSeconds} {
		if d := seconds(n); d > 0 && (least == 0 || d < least) {
			least = d
		}
	}
	if least == 0 {
		return time.Minute
	}
	return min(max(least/5, time.Second), time.Minute)
}

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }

// span is a duration for people.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
