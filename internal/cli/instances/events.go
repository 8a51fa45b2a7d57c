package instances

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
	"mvm/internal/display"
)

const eventsHelp = `Show the audit log: who changed what, and why.

With --follow the command prints new events as they come. If the agent restarts, the
command waits for it and continues after the last event that it printed.
`

// eventOptions are what the user chose.
type eventOptions struct {
	filter  mvm.EventFilter
	since   string
	actions []string
}

func (a *app) eventsCmd() *cobra.Command {
	var o eventOptions
	cmd := &cobra.Command{Use: "events [TENANT | TENANT/POOL | INSTANCE] [flags]", Short: "Show the audit log: who changed what, and why", Long: eventsHelp,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.CompleteInstances}
	cmd.Flags().BoolVarP(&o.filter.Follow, "follow", "f", false, "keep running and print new events")
	cmd.Flags().IntVarP(&o.filter.Tail, "tail", "n", 50, "show only the last events; 0: all (with --since the default is all)")
	cmd.Flags().StringVar(&o.since, "since", "", "only events since this `TIME`: 30m, 12h, 7d, 2026-01-02 or 2026-01-02T15:04:05Z")
	cmd.Flags().StringSliceVar(&o.actions, "action", nil, "only these `ACTIONS`, separated by commas, such as InstanceWoken")
	_ = cmd.RegisterFlagCompletionFunc("action", cobra.FixedCompletions(actionNames(), cobra.ShellCompDirectiveNoFileComp))
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		at, err := optionalAddress(args)
		if err != nil {
			return err
		}
		if err := o.complete(cmd, a.Now()); err != nil {
			return err
		}
		o.filter.Tenant, o.filter.Pool, o.filter.Instance = at.Tenant, at.Pool, at.Instance
		return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
			if at.Key != "" {
				i, err := c.Instance(ctx, at)
				if err != nil {
					return err
				}
				o.filter.Instance = i.ID
			}
			err := a.showEvents(ctx, c, o.filter, func(e mvm.Event) error {
				if *out != command.AsTable {
					return a.PrintItem(*out, e)
				}
				return a.WriteLine(eventText(e))
			})
			return command.Followed(ctx, o.filter.Follow, err)
		})
	}
	return cmd
}

// complete checks the flags and puts them into the filter.
func (o *eventOptions) complete(cmd *cobra.Command, now time.Time) (err error) {
	if o.filter.Tail < 0 {
		return command.Usagef(cmd, "--tail %d is less than 0", o.filter.Tail)
	}
	if o.since != "" {
		if o.filter.Since, err = sinceFlag(cmd, o.since, now); err != nil {
			return err
		}
		if !cmd.Flags().Changed("tail") {
			o.filter.Tail = 0
		}
	}
	o.filter.Actions = nil
	for _, name := range o.actions {
		i := slices.IndexFunc(mvm.Actions(), func(act mvm.Action) bool { return strings.EqualFold(string(act), name) })
		if i < 0 {
			return command.Usagef(cmd, "--action %.40q is none of %s", name, strings.Join(actionNames(), ", "))
		}
		o.filter.Actions = append(o.filter.Actions, mvm.Actions()[i])
	}
	return nil
}

func actionNames() (out []string) {
	for _, act := range mvm.Actions() {
		out = append(out, string(act))
	}
	return out
}

// sinceFlag is what --since says, zero where it is not given.
func sinceFlag(cmd *cobra.Command, value string, now time.Time) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	t, err := parseSince(value, now)
	if err != nil {
		return t, command.Usagef(cmd, "--since %.40q is neither an age (30m, 12h, 7d) nor a time (2026-01-02, 2026-01-02T15:04:05Z)", value)
	}
	return t, nil
}

// parseSince reads an age or a time.
func parseSince(s string, now time.Time) (time.Time, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		s = days + "h"
		d, err := time.ParseDuration(s)
		return now.Add(-24 * d), err
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	if t, err := time.ParseInLocation("2006-01-02", s, time.Local); err == nil {
		return t, nil
	}
	return time.Parse(time.RFC3339, s)
}

// The pauses between looks for an agent that went away while it was followed.
const (
	reconnectFirst = 250 * time.Millisecond
	reconnectMost  = 5 * time.Second
)

// showEvents gives the events to show. A follower stays when the agent goes away: it
// goes on after the last event that it has seen.
func (a *app) showEvents(ctx context.Context, c *api.Client, f mvm.EventFilter, show func(mvm.Event) error) error {
	pause := reconnectFirst
	for {
		var broken error // by who reads the output
		err := c.Events(ctx, f, func(e mvm.Event) error {
			f.After, pause = e.Seq, reconnectFirst
			broken = show(e)
			return broken
		})
		if !f.Follow || broken != nil || ctx.Err() != nil || err != nil && !mvm.IsKind(err, mvm.KindUnavailable) {
			return err
		}
		if pause == reconnectFirst {
			a.Say("lost the connection to the agent; waiting for it")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, reconnectMost)
	}
}

func eventText(e mvm.Event) string {
	at := mvm.Address{Tenant: e.Tenant, Pool: e.Pool, Instance: e.Instance}
	s := fmt.Sprintf("%s  %-18s %s  by %s", e.Time.Local().Format("2006-01-02 15:04:05"), e.Action, command.Dash(at.String()), e.By)
	if e.Why != "" {
		s += " (" + e.Why + ")"
	}
	if e.Detail != "" && e.Detail != e.Why {
		s += ": " + e.Detail
	}
	return display.Line(s)
}
