package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
)

func (a *app) eventsCmd() *cobra.Command {
	var f mvm.EventFilter
	cmd := &cobra.Command{Use: "events [TENANT | TENANT/POOL | INSTANCE] [flags]", Short: "Show the audit log: who changed what, and why",
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeInstances}
	cmd.Flags().BoolVarP(&f.Follow, "follow", "f", false, "go on as events come")
	cmd.Flags().IntVarP(&f.Tail, "tail", "n", 50, "only the last events; 0: all")
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		at, err := optionalAddress(args)
		if err != nil {
			return err
		}
		if f.Tail < 0 {
			return usagef(cmd, "--tail %d is less than 0", f.Tail)
		}
		f.Tenant, f.Pool, f.Instance = at.Tenant, at.Pool, at.Instance
		return a.withAgent(cmd, func(ctx context.Context, c *api.Client) error {
			if at.Key != "" {
				i, err := c.Instance(ctx, at)
				if err != nil {
					return err
				}
				f.Instance = i.ID
			}
			return c.Events(ctx, f, func(e mvm.Event) error {
				if *out != asTable {
					return a.printItem(*out, e)
				}
				return a.writeLine(eventText(e))
			})
		})
	}
	return cmd
}

func eventText(e mvm.Event) string {
	at := mvm.Address{Tenant: e.Tenant, Pool: e.Pool, Instance: e.Instance}
	s := fmt.Sprintf("%s  %-18s %s  by %s", e.Time.Local().Format("2006-01-02 15:04:05"), e.Action, dash(at.String()), e.By)
	if e.Why != "" {
		s += " (" + e.Why + ")"
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return printable(s)
}
