package tenants

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
)

const poolBuildHelp = `Build the pool's image and roll it out. The agent restarts the running and warm instances
one after the other; sleeping ones boot with the new image when they next wake. If the
image has not changed since the last build, nothing is restarted.

The build continues if you interrupt the command. If a build of the same image is under way,
the command waits for that one. --detach returns at once and prints the build's id, for
mvm builds info and mvm builds logs.
`

type poolBuildOptions struct {
	follow, detach bool
	out            *command.Format
}

func (a *app) poolBuildCmd() *cobra.Command {
	var o poolBuildOptions
	cmd := &cobra.Command{Use: "build TENANT/POOL [flags]", Short: "Build the pool's image and roll it out", Long: poolBuildHelp,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompletePools}
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "print the build's log to stderr while it runs")
	cmd.Flags().BoolVarP(&o.detach, "detach", "d", false, "do not wait for the build; print its id")
	o.out = command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if o.follow && o.detach {
			return command.Usagef(cmd, "--follow and --detach do not go together")
		}
		return a.OnPool(cmd, args[0], func(ctx context.Context, c *api.Client, at mvm.Address) error {
			b, err := a.poolBuild(ctx, c, at, o)
			if err != nil || o.detach {
				return err
			}
			a.Say("pool %s has image %s", at, b.Digest)
			return a.PrintChanged(*o.out, b, b.ID)
		})
	}
	return cmd
}

// poolBuild builds the pool's image in the way that was asked for.
func (a *app) poolBuild(ctx context.Context, c *api.Client, at mvm.Address, o poolBuildOptions) (mvm.Build, error) {
	if o.follow || o.detach {
		r, err := c.StartBuild(ctx, at.Tenant, at.Pool)
		if err != nil {
			return mvm.Build{}, err
		}
		if o.detach {
			a.Say("build %s of %s is %s", r.ID, r.Ref, r.State)
			return mvm.Build{}, a.PrintChanged(*o.out, r, r.ID)
		}
		b, err := a.followBuild(ctx, c, at, r.ID)
		if ctx.Err() != nil {
			a.Say("build %s continues: follow it with `mvm builds logs -f %s`, or cancel it with `mvm builds cancel %s`", r.ID, r.ID, r.ID)
		}
		return b, err
	}
	p := a.NewProgress()
	defer p.Done()
	b, err := c.BuildPool(ctx, at.Tenant, at.Pool, p.Show)
	if p.Done(); ctx.Err() != nil {
		a.Say("the build continues: `mvm builds %s` lists it", at)
	}
	return b, err
}

// followBuild prints what the build says to stderr, and returns what it made.
func (a *app) followBuild(ctx context.Context, c *api.Client, at mvm.Address, id string) (mvm.Build, error) {
	a.Say("build %s", id)
	err := c.BuildLogs(ctx, id, mvm.LogsSpec{Follow: true}, func(l mvm.LogLine) error {
		a.Say("%s", l.Text)
		return nil
	})
	if err != nil {
		return mvm.Build{}, err
	}
	r, err := c.BuildRun(ctx, id)
	if err == nil {
		err = r.Err(mvm.RequestFrom(ctx))
	}
	if err != nil {
		return mvm.Build{}, err
	}
	p, err := c.Pool(ctx, at.Tenant, at.Pool)
	if err != nil {
		return mvm.Build{}, err
	}
	n := slices.IndexFunc(p.Builds, func(b mvm.Build) bool { return b.Digest == r.Image })
	if n < 0 {
		return mvm.Build{}, mvm.Errorf(mvm.KindState, "pool %s does not have image %s of build %s any more", at, r.Image, id)
	}
	return p.Builds[n], nil
}
