package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
)

func (a *app) whyCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "why INSTANCE [-o FORMAT]", Short: "Tell how an instance came to its state: who asked, how, and where the time went",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeInstances}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.onInstance(cmd, args[0], func(ctx context.Context, c *api.Client, at mvm.Address) error {
			i, err := c.Instance(ctx, at)
			if err != nil {
				return err
			}
			t, _, err := c.Tenant(ctx, i.Tenant)
			if err != nil {
				return err
			}
			return a.print(*out, i, func() table { return prose(a.why(i, t)) })
		})
	}
	return cmd
}

// why tells the story of the instance's last transition.
func (a *app) why(i mvm.Instance, t mvm.Tenant) []string {
	out := []string{fmt.Sprintf("%s is %s since %s (%s)", i.Address(), i.State, a.ago(i.Changed), i.Changed.Local().Format("2006-01-02 15:04:05"))}
	add := func(format string, args ...any) { out = append(out, "  "+fmt.Sprintf(format, args...)) }
	if l := i.Last; l != nil {
		add("%s, asked by %s%s: %s -> %s", l.Op, l.By, because(l.Reason), l.From, l.To)
		if l.Kind != "" {
			add("%s: %s", l.Kind, map[string]string{"warm": "from its snapshot, with its memory", "cold": "booted from its disks"}[l.Kind])
		}
		add("took %s%s", took(l.Took), stages(l.Stages))
		if l.ClockError != 0 {
			add("clock error of the guest after it: %s", took(l.ClockError))
		}
	} else {
		add("nothing was done with it yet")
	}
	if s := i.Snapshot; s != nil {
		add("snapshot %s holds %s for %d MiB of memory", s.ID, size(s.Bytes), s.MemMiB)
	}
	behind := ""
	if i.SecretsGeneration != t.SecretsGeneration {
		behind = fmt.Sprintf("; the tenant has %d, delivered at the next wake or rotation", t.SecretsGeneration)
	}
	add("secrets generation %d%s", i.SecretsGeneration, behind)
	if i.Untold != "" {
		add("secrets not told: %s", i.Untold)
	}
	for _, l := range a.idleLines(i.Idle) {
		add("%s", l)
	}
	for _, s := range i.Integrations {
		add("integration %s: %s", s.Name, a.integrationText(s))
	}
	if i.Op != nil {
		add("now: %s, asked by %s%s, for %s", note(i), i.Op.By, because(i.Op.Why), age(a.Now().Sub(i.Op.Started)))
	}
	if i.ManualOverrideUntil.After(a.Now()) {
		add("changed by hand: left alone for another %s", age(i.ManualOverrideUntil.Sub(a.Now())))
	}
	if i.Problem != "" {
		add("problem: %s", i.Problem)
	}
	return out
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return " (" + why + ")"
}

func stages(list []mvm.Stage) string {
	var parts []string
	for _, s := range list {
		if s.Took < time.Microsecond {
			continue // there was nothing to do
		}
		parts = append(parts, s.Name+" "+took(s.Took))
	}
	if len(parts) == 0 {
		return ""
	}
	return ": " + strings.Join(parts, ", ")
}
