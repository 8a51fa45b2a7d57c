package cli

import (
	"fmt"
	"mvm"
	"strings"
	"time"
)

// ago tells how long ago t was, in one unit or two.
func (a *app) ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return age(a.Now().Sub(t))
}

// in says when a time comes.
func (a *app) in(t time.Time) string {
	switch d := t.Sub(a.Now()); {
	case t.IsZero():
		return "-"
	case d < 0:
		return age(-d) + " ago"
	default:
		return "in " + age(d)
	}
}

func age(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// took writes a measured time with three digits or so.
func took(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= 10*time.Millisecond || d <= -10*time.Millisecond:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}

// size writes bytes in the unit that fits.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, exp := float64(n)/unit, 0
	for v >= unit && exp < 4 {
		v, exp = v/unit, exp+1
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") + " " + []string{"KiB", "MiB", "GiB", "TiB", "PiB"}[exp]
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func plural(n int, one, many string) string {
	if n == 1 {
		return fmt.Sprintf("1 %s", one)
	}
	return fmt.Sprintf("%d %s", n, many)
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

// stateNames are the states that an instance may be found in.
func stateNames() (names []string) {
	for _, s := range []mvm.State{mvm.StateCreated, mvm.StateReady, mvm.StateRunning, mvm.StateWarm, mvm.StateSleeping, mvm.StateStopped} {
		names = append(names, string(s))
	}
	return names
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return " (" + why + ")"
}

func tookText(i mvm.Instance) string {
	l := i.Last
	if l == nil || l.Took == 0 {
		return ""
	}
	if l.Kind != "" {
		return fmt.Sprintf(" (%s, %s)", l.Kind, took(l.Took))
	}
	return fmt.Sprintf(" (%s)", took(l.Took))
}

// integrationText tells how an integration is, for people.
func (a *app) integrationText(s mvm.IntegrationState) string {
	text := s.Status
	if s.Error != "" {
		text += ": " + s.Error
	}
	if !s.LastCheckpointAt.IsZero() {
		text += fmt.Sprintf(", checkpointed %s ago", a.ago(s.LastCheckpointAt))
	}
	if s.StateBytes > 0 {
		text += ", " + size(s.StateBytes)
	}
	if s.Critical {
		text += ", critical"
	}
	return text
}
