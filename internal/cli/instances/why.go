package instances

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
)

const whyHelp = `Explain an instance's state: what it waits for, what was refused, which messages of chats wait
for it, and its last transitions, newest first. Each transition shows who asked and why,
whether memory was kept (warm) or lost (cold) and why, the time of each stage, the snapshot
size, the clock error, the secrets generation, the image, the VMM and the request id. -o json
and -o yaml print all transitions on record, oldest first.
`

func (a *app) whyCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "why INSTANCE [flags]", Short: "Explain an instance's state: who asked, why, and how long it took", Long: whyHelp,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompleteInstances}
	tail := cmd.Flags().IntP("tail", "n", 4, "number of transitions to show; 0: all on record")
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *tail < 0 {
			return command.Usagef(cmd, "--tail %d is less than 0", *tail)
		}
		return a.onOne(cmd, args[0], func(ctx context.Context, c *api.Client, at mvm.Address) error {
			s, err := c.Why(ctx, at)
			if err != nil {
				return err
			}
			return a.Print(*out, s, func() command.Table { return command.Prose(append(a.present(s), history(s, *tail)...)) })
		})
	}
	return cmd
}

// present tells how the instance is now.
func (a *app) present(s mvm.Story) []string {
	i := s.Instance
	out := []string{fmt.Sprintf("%s is %s since %s (%s)", i.Address(), i.State, a.Ago(i.Changed), i.Changed.Local().Format("2006-01-02 15:04:05"))}
	add := func(format string, args ...any) { out = append(out, "  "+fmt.Sprintf(format, args...)) }
	if s := i.Snapshot; s != nil {
		add("snapshot %s holds %s for %d MiB of memory", s.ID, command.Size(s.Bytes), s.MemMiB)
	}
	if !i.NextWake.IsZero() {
		add("next wake: %s", a.wakeText(i.NextWake))
	}
	behind := ""
	if i.SecretsGeneration != s.TenantSecrets {
		behind = fmt.Sprintf("; the tenant has %d, which the next wake or rotation delivers", s.TenantSecrets)
	}
	add("secrets generation %d%s", i.SecretsGeneration, behind)
	if i.Untold != "" {
		add("secrets not delivered: %s", i.Untold)
	}
	for _, l := range a.idleLines(i.Idle) {
		add("%s", l)
	}
	for _, s := range i.Integrations {
		add("integration %s: %s", s.Name, a.IntegrationText(s))
	}
	if i.Op != nil {
		add("now: %s, asked by %s%s, for %s", note(i), i.Op.By, command.Because(i.Op.Why), command.Age(a.Now().Sub(i.Op.Started)))
	}
	if s.Queued > 1 {
		add("%d more operations wait for this one", s.Queued-1)
	}
	if i.ManualOverrideUntil.After(a.Now()) {
		add("changed by hand: left alone for another %s", command.Age(i.ManualOverrideUntil.Sub(a.Now())))
	}
	if i.Building != "" {
		add("its pool waits for build %s: see `mvm builds logs -f %s`", i.Building, i.Building)
	}
	if i.Stalled != "" {
		add("stalled: %s", i.Stalled)
	}
	if i.Unlimited != "" {
		add("without its limits: %s", i.Unlimited)
	}
	if i.Health != nil {
		add("health: %s since %s%s", i.Health.Status, a.Ago(i.Health.Since), command.Because(i.Health.Text()))
	}
	if trouble := i.Health.ChannelTroubles(); trouble != "" {
		add("channels: %s", trouble)
	}
	if waits := i.Backlog.Text(); waits != "" {
		add("messages: %s", waits)
	}
	if i.Problem != "" {
		add("problem: %s", i.Problem)
	}
	if len(s.LastLines) > 0 {
		add("last lines of %s:", s.LastOf)
		for _, l := range s.LastLines {
			add("| %s", l)
		}
	}
	for _, e := range s.Notes {
		add("%s %s", e.Time.Local().Format("15:04:05"), notEvent(e))
	}
	return out
}

// wakeText says when an instance is due.
func (a *app) wakeText(t time.Time) string {
	return fmt.Sprintf("%s (%s)", t.Local().Format("2006-01-02 15:04:05"), a.In(t))
}

// notEvent says what did not go as wanted.
func notEvent(e mvm.Event) string {
	what := map[mvm.Action]string{mvm.TransitionDeferred: "put off", mvm.DrainTimedOut: "drain timed out",
		mvm.WakeRefused: "refused", mvm.QuotaExceeded: "refused by the quota", mvm.TimerSkipped: "timer skipped"}[e.Action]
	text := fmt.Sprintf("%s, asked by %s%s", what, e.By, command.Because(e.Why))
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text
}

// history tells the last transitions, the newest first. Image and VMM are told where
// they are not those of the transition before.
func history(s mvm.Story, tail int) []string {
	all := s.Transitions
	if len(all) == 0 {
		return []string{"  no transitions yet"}
	}
	var out []string
	for n := len(all) - 1; n >= 0 && (tail == 0 || len(all)-n <= tail); n-- {
		var before mvm.Transition
		if n > 0 {
			before = all[n-1]
		}
		out = append(out, transitionText(all[n], before)...)
	}
	if tail > 0 && len(all) > tail {
		out = append(out, fmt.Sprintf("and %d more before that: --tail 0 shows them", len(all)-tail))
	}
	return out
}

func transitionText(t, before mvm.Transition) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, "    "+fmt.Sprintf(format, args...)) }
	out = append(out, fmt.Sprintf("%s %s, asked by %s%s: %s -> %s", t.Started.Local().Format("2006-01-02 15:04:05"), t.Op, t.By, command.Because(whyOf(t)), t.From, t.To))
	if t.Error != "" {
		add("failed: %s", t.Error)
	}
	if t.Repeated > 0 {
		add("and %d more times up to %s", t.Repeated, t.Until.Local().Format("2006-01-02 15:04:05"))
	}
	if t.Kind != "" {
		add("%s: %s%s", t.Kind, wayText(t), command.Because(t.Reason))
	}
	add("took %s%s", command.Took(t.Took), stages(t.Stages))
	var facts []string
	fact := func(when bool, format string, args ...any) {
		if when {
			facts = append(facts, fmt.Sprintf(format, args...))
		}
	}
	fact(t.SnapshotBytes > 0, "snapshot %s", command.Size(t.SnapshotBytes))
	fact(t.ClockError != 0, "clock error %s", command.Took(t.ClockError))
	fact(t.SecretsGeneration > 0, "secrets generation %d", t.SecretsGeneration)
	fact(t.Request != "", "request %s", t.Request)
	if len(facts) > 0 {
		add("%s", strings.Join(facts, ", "))
	}
	if t.Image != "" && t.Image != before.Image {
		add("image %s", t.Image)
	}
	if t.VMM != "" && t.VMM != before.VMM {
		add("VMM %s", t.VMM)
	}
	return out
}

func wayText(t mvm.Transition) string {
	switch {
	case t.Kind == "cold":
		return "booted from its disks"
	case t.SnapshotBytes > 0:
		return "from its snapshot, with its memory"
	}
	return "with its memory"
}

// whyOf is what the asker gave as the reason; older records have it as the reason of
// the way.
func whyOf(t mvm.Transition) string {
	if t.Why == "" && t.Kind == "" {
		return t.Reason
	}
	return t.Why
}

func stages(list []mvm.Stage) string {
	var parts []string
	for _, s := range list {
		if s.Took < time.Microsecond {
			continue // there was nothing to do
		}
		parts = append(parts, s.Name+" "+command.Took(s.Took))
	}
	if len(parts) == 0 {
		return ""
	}
	return ": " + strings.Join(parts, ", ")
}
