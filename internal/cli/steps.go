package cli

import (
	"fmt"
	"mvm"
	"strings"
)

// exitWould is the exit code of a dry run that would change something.
const exitWould = exitStatus(10)

// nothing says that there are no steps, and what that means.
func nothing(what string, dry, noWait bool) string {
	switch {
	case dry:
		return "nothing would change"
	case noWait:
		return "nothing to change on record"
	}
	return what + " as it should be: nothing to change"
}

// printSteps prints the steps of a plan that was made so, or would be. A dry run of
// something ends with exitWould. none is said where there are no steps.
func (a *app) printSteps(steps []mvm.PlanStep, dry bool, out format, none string) error {
	err := a.print(out, steps, func() table {
		t := table{none: none}
		for _, s := range steps {
			t.add(stepText(s))
		}
		return t
	})
	if err != nil || len(steps) == 0 {
		return err
	}
	if out == asTable {
		verb := map[bool]string{false: "done", true: "would be done"}[dry]
		a.say("%s %s", plural(len(steps), "step", "steps"), verb)
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
	return fmt.Sprintf("%s %s %s%s", sign, s.Action, s.Target, because(s.Reason))
}

// printChanged prints the name of what was made, or all of it as JSON or YAML.
func (a *app) printChanged(f format, v any, name string) error {
	return a.print(f, v, func() table { return table{rows: [][]string{{name}}} })
}
