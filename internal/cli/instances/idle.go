package instances

import (
	"fmt"
	"strings"

	"mvm"
)

// idleText says in a line how idle an instance is, and what keeps it awake.
func (a *app) idleText(s *mvm.IdleStatus) string {
	switch {
	case s == nil:
		return "-"
	case s.Awake != "":
		return "awake because " + s.Awake
	case s.Since.IsZero():
		return s.Reason
	}
	return "idle for " + a.Ago(s.Since)
}

// idleLines tell each signal, for `mvm why`.
func (a *app) idleLines(s *mvm.IdleStatus) []string {
	if s == nil {
		return nil
	}
	first := a.idleText(s)
	if s.Awake == "" && s.Reason != "" {
		first += fmt.Sprintf(" (%s: %s)", s.Decision, s.Reason)
	}
	out := []string{first}
	for _, sig := range s.Signals {
		state := "idle"
		if sig.Busy {
			state = "busy"
		}
		out = append(out, fmt.Sprintf("  %-11s  %s: %s", sig.Name, state, strings.TrimSpace(sig.Text)))
	}
	return out
}
