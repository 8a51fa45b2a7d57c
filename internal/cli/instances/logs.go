package instances

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
	"mvm/internal/display"
)

const logsHelp = `Show the logs of an instance's services, or its console. INSTANCE may be tenant/pool if the
pool has exactly one instance.

The host keeps the logs of the last two boots, up to 1 MiB for each boot. So you can read
the logs of a sleeping, stopped or crashed instance without waking it. --previous shows the
boot before the last one. Times are from the guest's clock.

A terminal shows colours, and other control characters as escapes such as \x1b. Output to a
pipe or file is unchanged.

With --follow the command runs until the instance sleeps, stops or is destroyed. Then it
says so and exits with 0, like docker logs and kubectl logs.
`

type logsOptions struct {
	spec  mvm.LogsSpec
	since string
	times bool
	out   *command.Format
}

func (a *app) logsCmd() *cobra.Command {
	var o logsOptions
	cmd := &cobra.Command{Use: "logs INSTANCE [flags]", Short: "Show the logs of an instance's services, or its console", Long: logsHelp,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompleteInstances}
	f := cmd.Flags()
	f.BoolVarP(&o.spec.Follow, "follow", "f", false, "keep running and print new lines")
	f.IntVarP(&o.spec.Tail, "tail", "n", 0, "show only the last lines; 0: all that are kept")
	f.StringVar(&o.spec.Service, "service", "", "only lines of this `SERVICE`")
	f.BoolVar(&o.spec.Console, "console", false, "show the microVM's console instead")
	f.StringVar(&o.since, "since", "", "only lines since this `TIME`: 30m, 12h, 7d, 2026-01-02 or 2026-01-02T15:04:05Z")
	f.BoolVarP(&o.spec.Previous, "previous", "p", false, "show the boot before the last one")
	f.BoolVarP(&o.times, "timestamps", "t", false, "print the time before each line")
	o.out = command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := o.complete(cmd, a.Now()); err != nil {
			return err
		}
		return a.onOne(cmd, args[0], func(ctx context.Context, c *api.Client, at mvm.Address) error {
			err := c.Logs(ctx, at, o.spec, func(l mvm.LogLine) error { return a.printLog(o, l) })
			if err == nil && o.spec.Follow {
				return a.sayLogEnd(ctx, c, at)
			}
			return command.Followed(ctx, o.spec.Follow, err)
		})
	}
	return cmd
}

// sayLogEnd says why a log that was followed has ended.
func (a *app) sayLogEnd(ctx context.Context, c *api.Client, at mvm.Address) error {
	i, err := c.Instance(ctx, at)
	switch {
	case mvm.IsKind(err, mvm.KindNotFound):
		a.Say("%s is destroyed: its log ends here", at)
	case err != nil:
		return command.Followed(ctx, true, err)
	case i.Op != nil:
		a.Say("%s is %s, and %s is in progress: the log ends here", i.Address(), i.State, i.Op.Kind)
	case i.State == mvm.StateRunning:
		a.Say("%s slept or stopped, and is running again: the log ends here; follow it again", i.Address())
	default:
		a.Say("%s is %s: the log ends here", i.Address(), i.State)
	}
	return nil
}

// complete checks the flags and puts them into the spec.
func (o *logsOptions) complete(cmd *cobra.Command, now time.Time) (err error) {
	switch {
	case o.spec.Tail < 0:
		return command.Usagef(cmd, "--tail %d is less than 0", o.spec.Tail)
	case o.spec.Previous && o.spec.Follow:
		return command.Usagef(cmd, "--follow does not go with --previous: a past boot writes no new lines")
	case o.spec.Console && (o.spec.Previous || o.since != ""):
		return command.Usagef(cmd, "--console does not go with --since or --previous: console lines have no time and no boot")
	}
	o.spec.Since, err = sinceFlag(cmd, o.since, now)
	return err
}

func (a *app) printLog(o logsOptions, l mvm.LogLine) error {
	before := ""
	if o.times {
		before = l.Time.Local().Format("15:04:05.000") + " "
	}
	if o.spec.Service == "" && l.Service != "" {
		before += display.Line(l.Service) + " | "
	}
	return a.PrintLog(*o.out, before, l)
}
