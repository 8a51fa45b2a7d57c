package instances

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
)

const psHelp = `List instances in all states, also sleeping and stopped ones. -o wide adds sizes, the build,
the age and the time until the next wake.
`

type psOptions struct {
	states []string
	out    *command.Format
}

// psCmd is the short form of `instance list`.
func (a *app) psCmd() *cobra.Command { return a.listInstancesCmd("ps") }

func (a *app) listInstancesCmd(name string, aliases ...string) *cobra.Command {
	var o psOptions
	cmd := &cobra.Command{Use: name + " [TENANT | TENANT/POOL] [flags]", Aliases: aliases, Short: "List instances and their states", Long: psHelp,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.CompletePools}
	f := cmd.Flags()
	f.StringSliceVar(&o.states, "state", nil, "only instances in this `STATE` (repeat, or separate with commas): "+strings.Join(command.StateNames(), ", "))
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(command.StateNames(), cobra.ShellCompDirectiveNoFileComp))
	f.BoolP("all", "a", false, "instances in all states (the default)")
	o.out = command.WideFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("all") && len(o.states) > 0 {
			return command.Usagef(cmd, "--all and --state do not go together")
		}
		for _, s := range o.states {
			if !slices.Contains(command.StateNames(), s) {
				return command.Usagef(cmd, "--state %q is none of %s", s, strings.Join(command.StateNames(), ", "))
			}
		}
		filter, err := optionalAddress(args)
		if err != nil {
			return err
		}
		return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
			is, err := c.Instances(ctx, filter)
			if err != nil {
				return err
			}
			if len(o.states) > 0 {
				is = slices.DeleteFunc(is, func(i mvm.Instance) bool { return !slices.Contains(o.states, string(i.State)) })
			}
			return a.Print(*o.out, is, func() command.Table { return a.instanceTable(is, *o.out == command.AsWide) })
		})
	}
	return cmd
}

func optionalAddress(args []string) (mvm.Address, error) {
	if len(args) == 0 {
		return mvm.Address{}, nil
	}
	return mvm.ParseAddress(args[0])
}

func (a *app) instanceTable(is []mvm.Instance, wide bool) command.Table {
	t := command.Table{Head: []string{"INSTANCE", "ROLE", "STATE", "HEALTH", "SINCE", "IP", "KEY", "NOTE"}, None: "no instances"}
	if wide {
		t.Head = slices.Insert(t.Head, 7, "VCPUS", "MEMORY", "DATA", "BUILD", "AGE", "NEXT WAKE")
	}
	for _, i := range is {
		row := []string{i.Address().String(), string(i.Role), string(i.State), healthText(i), a.Ago(i.Changed), addrText(i), command.Dash(i.Key), withBacklog(note(i), i)}
		if wide {
			row = slices.Insert(row, 7, strconv.Itoa(i.Res.VCPUs), command.Size(int64(i.Res.MemMiB)<<20), command.Size(int64(i.Res.DataDiskMiB)<<20), command.Dash(i.BuildID), a.Ago(i.Created), a.In(i.NextWake))
		}
		t.Add(row...)
	}
	return t
}

// note says what is special about an instance right now.
func note(i mvm.Instance) string {
	switch {
	case i.Op != nil && i.Op.Step != "":
		return fmt.Sprintf("%s: at %s", i.Op.Kind, i.Op.Step)
	case i.Op != nil:
		return fmt.Sprintf("%s under way", i.Op.Kind)
	case i.Stalled != "":
		return i.Stalled
	case i.Health != nil && i.Health.Status == mvm.HealthFailing:
		return i.Health.Text()
	case i.Building != "" && i.Problem == "":
		return "its pool waits for build " + i.Building
	case i.Problem == "" && i.Health != nil && i.Health.Status == mvm.HealthReady:
		return i.Health.Trouble()
	}
	return i.Problem
}

// withBacklog adds to a note that messages of chats wait for the instance.
func withBacklog(note string, i mvm.Instance) string {
	waits := i.Backlog.Text()
	if note == "" || waits == "" {
		return note + waits
	}
	return note + "; " + waits
}

// healthText says in a word how the services of an instance are.
func healthText(i mvm.Instance) string {
	switch {
	case i.Stalled != "":
		return "stalled"
	case i.Health != nil:
		return string(i.Health.Status)
	}
	return "-"
}
