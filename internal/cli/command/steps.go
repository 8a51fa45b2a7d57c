package command

import (
	"fmt"
	"mvm"
	"strings"
)

// exitWould is the exit code of a dry run that would change something.
const exitWould = ExitStatus(10)

// Nothing says that there are no steps, and what that means.
func Nothing(what string, dry, noWait bool) string {
	switch {
	case dry:
		return "nothing would change"
	case noWait:
		return "nothing to change on record"
	}
	return what + " as it should be: nothing to change"
}

// PrintSteps prints the steps of a plan that was made so, or would be. A dry run of
// something ends with exitWould. none is said where there are no steps.
func (a *App) PrintSteps(steps []mvm.PlanStep, dry bool, out Format, none string) error {
	err := a.Print(out, steps, func() Table {
		t := Table{None: none}
		for _, s := range steps {
			t.Add(stepText(s))
		}
		return t
	})
	if err != nil || len(steps) == 0 {
		return err
	}
	if out == AsTable {
		verb := map[bool]string{false: "done", true: "would be done"}[dry]
		a.Say("%s %s", Plural(len(steps), "step", "steps"), verb)
	}
	if dry {
		return exitWould
	}
	return nil
}

// stepText writes a step of a plan, with a sign for what comes, goes and changes.
func stepText(s mvm.PlanStep) string {
	sign := "~"
	switch {
	case strings.HasPrefix(s.Action, "create"):
		sign = "+"
	case strings.HasPrefix(s.Action, "destroy"):
		sign = "-"
	}
	return fmt.Sprintf("%s %s %s%s", sign, s.Action, s.Target, Because(s.Reason))
}

// PrintChanged prints the name of what was made, or all of it as JSON or YAML.
func (a *App) PrintChanged(f Format, v any, name string) error {
	return a.Print(f, v, func() Table { return Table{rows: [][]string{{name}}} })
}
