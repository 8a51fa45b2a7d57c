package cli

import (
	"context"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
)

const poolRestartHelp = `Restart the instances of a pool that run or are warm, one after the other; the next
begins when the one before it is ready. It ends at the first that fails. Instances that
sleep or are stopped are left alone: they keep what they have.

Interrupting the command ends it after the instance that is being restarted.
`

func (a *app) poolRestartCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "restart TENANT/POOL [flags]", Short: "Restart the instances of a pool, one after the other", Long: poolRestartHelp,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completePools}
	why := cmd.Flags().String("why", "", "`REASON`, for `mvm why` and the audit log")
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.onPool(cmd, args[0], func(ctx context.Context, c *api.Client, at mvm.Address) error {
			return a.runPoolRestart(ctx, c, at, *why, *out)
		})
	}
	return cmd
}

func (a *app) runPoolRestart(ctx context.Context, c *api.Client, at mvm.Address, why string, out format) error {
	all, err := c.Instances(ctx, at)
	if err != nil {
		return err
	}
	p := a.newProgress()
	defer p.done()
	done := []mvm.Instance{}
	for _, i := range all {
		if !i.State.HoldsMemory() {
			continue
		}
		now, err := c.Operate(ctx, i.Address(), mvm.OpRequest{Op: mvm.OpRestart, Why: why, Awake: true}, p.show)
		p.done()
		if err != nil {
			return err
		}
		if !now.State.HoldsMemory() {
			a.say("%s is %s and is left alone", now.Address(), now.State)
			continue
		}
		a.say("%s is %s%s", now.Address(), now.State, tookText(now))
		done = append(done, now)
	}
	if len(done) == 0 {
		a.say("no instance of %s runs or is warm", at)
	}
	if out != asTable {
		return a.print(out, done, nil)
	}
	return nil
}
