package tenants

import (
	"context"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
)

const poolRestartHelp = `Restart the running and warm instances of a pool, one after the other. Each restart waits
until the previous instance is ready. The command stops at the first failure. Sleeping and
stopped instances are left alone.

If you interrupt the command, the current restart still finishes, and no other begins.
`

func (a *app) poolRestartCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "restart TENANT/POOL [flags]", Short: "Restart the instances of a pool, one after the other", Long: poolRestartHelp,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompletePools}
	why := cmd.Flags().String("why", "", "`REASON` to record for mvm why and the audit log")
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.OnPool(cmd, args[0], func(ctx context.Context, c *api.Client, at mvm.Address) error {
			return a.runPoolRestart(ctx, c, at, *why, *out)
		})
	}
	return cmd
}

func (a *app) runPoolRestart(ctx context.Context, c *api.Client, at mvm.Address, why string, out command.Format) error {
	all, err := c.Instances(ctx, at)
	if err != nil {
		return err
	}
	p := a.NewProgress()
	defer p.Done()
	done := []mvm.Instance{}
	for _, i := range all {
		if !i.State.HoldsMemory() {
			continue
		}
		now, err := c.Operate(ctx, i.Address(), mvm.OpRequest{Op: mvm.OpRestart, Why: why, Awake: true}, p.Show)
		p.Done()
		if err != nil {
			return err
		}
		if !now.State.HoldsMemory() {
			a.Say("%s is %s and is left alone", now.Address(), now.State)
			continue
		}
		a.Say("%s is %s%s", now.Address(), now.State, command.TookText(now))
		done = append(done, now)
	}
	if len(done) == 0 {
		a.Say("no instance of %s runs or is warm", at)
	}
	if out != command.AsTable {
		return a.Print(out, done, nil)
	}
	return nil
}
