package instances

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
)

const snapshotsHelp = `mvm sets a snapshot aside if it can't restore the instance from it, and records the reason.
It keeps these snapshots for set_aside_days (7), at most set_aside_per_instance (2) for each
instance and set_aside_gib (20) in total.

If a wake fails because the host lacks something, such as disk space, the instance keeps
its snapshot and stays asleep; that snapshot is not set aside.
`

func (a *app) instanceSnapshotsCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "snapshots COMMAND", Short: "Snapshots set aside because they could not be restored",
		Args: cobra.ArbitraryArgs, RunE: command.Group}
	cmd.AddCommand(a.snapshotsListCmd(), a.snapshotsRestoreCmd(), a.snapshotsRmCmd())
	return cmd
}

func (a *app) snapshotsListCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "list [TENANT | TENANT/POOL | INSTANCE] [-o FORMAT]", Aliases: []string{"ls"}, Short: "List the snapshots that were set aside",
		Long: "List the snapshots that were set aside.\n\n" + snapshotsHelp, Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.CompleteInstances}
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		filter, err := optionalAddress(args)
		if err != nil {
			return err
		}
		return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
			all, err := c.Snapshots(ctx, filter)
			if err != nil {
				return err
			}
			return a.Print(*out, all, func() command.Table { return a.snapshotTable(all) })
		})
	}
	return cmd
}

func (a *app) snapshotTable(all []mvm.AsideSnapshot) command.Table {
	t := command.Table{Head: []string{"INSTANCE", "SNAPSHOT", "SIZE", "TAKEN", "SET ASIDE", "KEPT FOR", "FITS", "WHY"}, None: "no snapshots are set aside"}
	for _, s := range all {
		fits := "yes"
		if s.Misfit != "" {
			fits = "no: " + s.Misfit
		}
		at := mvm.Address{Tenant: s.Tenant, Pool: s.Pool, Instance: s.Instance}
		t.Add(at.String(), s.Snapshot.ID, command.Size(s.Snapshot.Bytes), a.Ago(s.Snapshot.Taken), a.Ago(s.At), command.Age(max(0, s.Until.Sub(a.Now()))), fits, s.Why)
	}
	return t
}

const snapshotsRestoreHelp = `Bring back a snapshot that was set aside. The stopped instance becomes a sleeping one with
this snapshot; wake it to restore its memory.

The agent refuses if the instance's disks have changed since the snapshot: memory and disks
would no longer fit together.
`

func (a *app) snapshotsRestoreCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "restore INSTANCE SNAPSHOT [-o FORMAT]", Short: "Bring back a snapshot that was set aside", Long: snapshotsRestoreHelp,
		Args: cobra.ExactArgs(2), ValidArgsFunction: a.CompleteInstances}
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := mvm.ValidateSnapshotID(args[1]); err != nil {
			return err
		}
		return a.onOne(cmd, args[0], func(ctx context.Context, c *api.Client, at mvm.Address) error {
			i, err := c.RestoreSnapshot(ctx, at, args[1])
			if err != nil {
				return err
			}
			a.Say("%s is %s with snapshot %s; wake it with `mvm instance wake %s`", i.Address(), i.State, args[1], i.ID)
			return a.PrintChanged(*out, i, i.Address().String())
		})
	}
	return cmd
}

func (a *app) snapshotsRmCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "rm INSTANCE SNAPSHOT... [--yes]", Short: "Remove snapshots that were set aside",
		Args: cobra.MinimumNArgs(2), ValidArgsFunction: a.CompleteInstances}
	yes := command.YesFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ids := args[1:]
		for _, id := range ids {
			if err := mvm.ValidateSnapshotID(id); err != nil {
				return err
			}
		}
		return a.onOne(cmd, args[0], func(ctx context.Context, c *api.Client, at mvm.Address) error {
			if err := a.Confirm(cmd, *yes, fmt.Sprintf("This permanently removes saved memory of %s: %s.", at, strings.Join(ids, ", "))); err != nil {
				return err
			}
			var errs []error
			for _, id := range ids {
				err := c.RemoveSnapshot(ctx, at, id)
				if err == nil {
					a.Say("snapshot %s removed", id)
				}
				errs = append(errs, err)
			}
			return a.FirstOf(errs)
		})
	}
	return cmd
}
