package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/display"
)

const logsHelp = `Show the logs of an instance's services, or its console. INSTANCE may be tenant/pool
where the pool has one instance.

The host keeps what the services of the last two boots logged, up to 1 MiB of each. So the
logs of an instance that sleeps, was stopped or crashed can be read, and that wakes nobody.
--previous shows the boot before the last one. Times are the guest's.

On a terminal colours stay, and everything else that a terminal would act on is shown as
an escape such as \x1b. To a pipe or file lines go as the program wrote them.

With --follow it goes on until the instance no longer runs: when it sleeps, stops or is
destroyed, the command says so and ends with 0, as docker logs and kubectl logs do.
`

type logsOptions struct {
	spec  mvm.LogsSpec
	since string
	times bool
	out   *format
}

func (a *app) logsCmd() *cobra.Command {
	var o logsOptions
	cmd := &cobra.Command{Use: "logs INSTANCE [flags]", Short: "Show the logs of an instance's services, or its console", Long: logsHelp,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeInstances}
	f := cmd.Flags()
	f.BoolVarP(&o.spec.Follow, "follow", "f", false, "go on as lines come")
	f.IntVarP(&o.spec.Tail, "tail", "n", 0, "only the last lines; 0: all that is kept")
	f.StringVar(&o.spec.Service, "service", "", "of this `SERVICE` only")
	f.BoolVar(&o.spec.Console, "console", false, "the console of the machine instead")
	f.StringVar(&o.since, "since", "", "only from this `TIME` on: 30m, 12h, 7d, 2026-01-02 or 2026-01-02T15:04:05Z")
	f.BoolVarP(&o.spec.Previous, "previous", "p", false, "of the boot before the last one")
	f.BoolVarP(&o.times, "timestamps", "t", false, "with times")
	o.out = outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := o.complete(cmd, a.Now()); err != nil {
			return err
		}
		return a.onOne(cmd, args[0], func(ctx context.Context, c *api.Client, at mvm.Address) error {
			err := c.Logs(ctx, at, o.spec, func(l mvm.LogLine) error { return a.printLog(o, l) })
			if err == nil && o.spec.Follow {
				return a.sayLogEnd(ctx, c, at)
			}
			return followed(ctx, o.spec.Follow, err)
		})
	}
	return cmd
}

// sayLogEnd says why a log that was followed has ended.
func (a *app) sayLogEnd(ctx context.Context, c *api.Client, at mvm.Address) error {
	i, err := c.Instance(ctx, at)
	switch {
	case mvm.IsKind(err, mvm.KindNotFound):
		a.say("%s is destroyed: its log ends here", at)
	case err != nil:
		return followed(ctx, true, err)
	case i.Op != nil:
		a.say("%s is %s, with %s under way: the log ends here", i.Address(), i.State, i.Op.Kind)
	case i.State == mvm.StateRunning:
		a.say("%s stopped or slept, and runs again: the log of before ends here", i.Address())
	default:
		a.say("%s is %s: the log ends here", i.Address(), i.State)
	}
	return nil
}

// complete checks the flags and puts them into the spec.
func (o *logsOptions) complete(cmd *cobra.Command, now time.Time) (err error) {
	switch {
	case o.spec.Tail < 0:
		return usagef(cmd, "--tail %d is less than 0", o.spec.Tail)
	case o.spec.Previous && o.spec.Follow:
		return usagef(cmd, "--follow and --previous don't go together: no line comes of a boot that is over")
	case o.spec.Console && (o.spec.Previous || o.since != ""):
		return usagef(cmd, "--console goes with neither --since nor --previous: its lines have no time and no boot")
	}
	o.spec.Since, err = sinceFlag(cmd, o.since, now)
	return err
}

func (a *app) printLog(o logsOptions, l mvm.LogLine) error {
	if *o.out != asTable {
		return a.printItem(*o.out, l)
	}
	before := ""
	if o.times {
		before = l.Time.Local().Format("15:04:05.000") + " "
	}
	if o.spec.Service == "" && l.Service != "" {
		before += display.Line(l.Service) + " | "
	}
	text := l.Text // as the program wrote it, for another program
	switch {
	case a.color:
		text = display.Coloured(text)
	case isTerminal(a.Stdout):
		text = strings.ReplaceAll(display.Text(text), "\n", `\n`)
	}
	if err := a.out.Raw([]byte(before + text + "\n")); err != nil {
		return mvm.Errorf(mvm.KindInternal, "write output: %w", err)
	}
	return nil
}

// printItem prints one item of a stream: a line of JSON, or a YAML document.
func (a *app) printItem(f format, v any) error {
	if f == asJSON {
		b, err := json.Marshal(v)
		if err != nil {
			return mvm.Errorf(mvm.KindInternal, "encode output: %w", err)
		}
		return a.writeLine(string(display.JSON(b)))
	}
	b, err := encode(f, v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.Stdout, "---\n%s", b)
	return err
}
