package command

import (
	"fmt"
	"mvm"
	"strings"
	"time"
)

// Ago tells how long ago t was, in one unit or two.
func (a *App) Ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return Age(a.Now().Sub(t))
}

// In says when a time comes.
func (a *App) In(t time.Time) string {
	switch d := t.Sub(a.Now()); {
	case t.IsZero():
		return "-"
	case d < 0:
		return Age(-d) + " ago"
	default:
		return "in " + Age(d)
	}
}

func Age(d time.Duration) string {
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

// Took writes a measured time with three digits or so.
func Took(d time.Duration) string {
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

// Size writes bytes in the unit that fits.
func Size(n int64) string {
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

func Dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func YesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func Plural(n int, one, many string) string {
	if n == 1 {
		return fmt.Sprintf("1 %s", one)
	}
	return fmt.Sprintf("%d %s", n, many)
}

func Clip(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

// StateNames are the states that an instance may be found in.
func StateNames() (names []string) {
	for _, s := range []mvm.State{mvm.StateCreated, mvm.StateReady, mvm.StateRunning, mvm.StateWarm, mvm.StateSleeping, mvm.StateStopped} {
		names = append(names, string(s))
	}
	return names
}

func Because(why string) string {
	if why == "" {
		return ""
	}
	return " (" + why + ")"
}

func TookText(i mvm.Instance) string {
	l := i.Last
	if l == nil || l.Took == 0 {
		return ""
	}
	if l.Kind != "" {
		return fmt.Sprintf(" (%s, %s)", l.Kind, Took(l.Took))
	}
	return fmt.Sprintf(" (%s)", Took(l.Took))
}

// IntegrationText tells how an integration is, for people.
func (a *App) IntegrationText(s mvm.IntegrationState) string {
	text := s.Status
	if s.Error != "" {
		text += ": " + s.Error
	}
	if !s.LastCheckpointAt.IsZero() {
		text += fmt.Sprintf(", checkpointed %s ago", a.Ago(s.LastCheckpointAt))
	}
	if s.StateBytes > 0 {
		text += ", " + Size(s.StateBytes)
	}
	if s.Critical {
		text += ", critical"
	}
	return text
}

// FirstOf reports all errors but the first, which is returned.
func (a *App) FirstOf(errs []error) error {
	var first error
	for _, err := range errs {
		switch {
		case err == nil:
		case first == nil:
			first = err
		default:
			Report(a.Errs, err)
		}
	}
	return first
}
