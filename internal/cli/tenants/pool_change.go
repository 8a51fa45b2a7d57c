package tenants

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
)

func (a *app) poolCreateCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "create TENANT/POOL --flake REF [flags]", Short: "Create a pool; the agent builds its image",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompleteTenants}
	flags := a.newPoolFlags(cmd, true)
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		at, err := command.PoolAddress(cmd, args[0])
		if err != nil {
			return err
		}
		if !cmd.Flags().Changed("flake") {
			return command.Usagef(cmd, "pool create: --flake (the image) is missing")
		}
		spec := mvm.PoolSpec{ID: at.Pool, Role: mvm.RoleWorker, Profile: "minimal",
			Resources: mvm.DefaultResources(), Policy: mvm.DefaultRuntimePolicy()}
		if err := flags.change(cmd, &spec); err != nil {
			return err
		}
		return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
			p, err := c.CreatePool(ctx, at.Tenant, spec)
			if err != nil {
				return err
			}
			a.Say("pool %s created; the agent builds its image (`mvm pool build %s` waits for it)", p.Address(), p.Address())
			a.sayHeld(ctx, c)
			return a.PrintChanged(*out, p, p.Address().String())
		})
	}
	return cmd
}

func (a *app) poolUpdateCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "update TENANT/POOL [flags]", Short: "Change a pool's settings; others stay as they are",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompletePools}
	flags := a.newPoolFlags(cmd, false)
	end := changeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.runPoolChange(cmd, args[0], flags, end)
	}
	return cmd
}

func (a *app) poolScaleCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "scale TENANT/POOL [--running N] [--warm N] [--sleeping N]", Short: "Set how many instances a pool should have",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompletePools}
	flags := &poolFlags{apply: map[string]func(*mvm.PoolSpec) error{}}
	flags.countFlags(cmd)
	end := changeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.runPoolChange(cmd, args[0], flags, end)
	}
	return cmd
}

// changeEnd says how a change of a pool ends.
type changeEnd struct {
	wait, force bool
	limit       *time.Duration
	out         *command.Format
}

// changeFlags has a command wait until the agent has made so what it put on record, and
// take over what a person changed.
func changeFlags(cmd *cobra.Command) *changeEnd {
	var end changeEnd
	cmd.Flags().BoolVar(&end.wait, "wait", false, "wait until the host agrees, and print the steps that were taken meanwhile")
	forceFlag(cmd, &end.force)
	end.limit, end.out = command.TimeoutFlag(cmd), command.OutputFlag(cmd)
	return &end
}

func (a *app) runPoolChange(cmd *cobra.Command, arg string, flags *poolFlags, end *changeEnd) error {
	if err := command.CheckTimeout(cmd, *end.limit, end.wait); err != nil {
		return err
	}
	named := false
	for name := range flags.apply {
		named = named || cmd.Flags().Changed(name)
	}
	if !named {
		return command.Usagef(cmd, "no setting to change was given")
	}
	return a.OnPool(cmd, arg, func(ctx context.Context, c *api.Client, at mvm.Address) error {
		p, err := c.Pool(ctx, at.Tenant, at.Pool)
		if err != nil {
			return err
		}
		was := p.Spec
		if err := flags.change(cmd, &p.Spec); err != nil {
			return err
		}
		if p, err = c.UpdatePool(ctx, at.Tenant, at.Pool, mvm.PoolUpdate{Spec: &p.Spec, If: &was, Force: end.force}); err != nil {
			return err
		}
		a.Say("pool %s updated", at)
		a.sayHeld(ctx, c)
		if end.wait {
			return a.runReconcile(ctx, c, mvm.ReconcileRequest{Tenant: at.Tenant}, *end.limit, *end.out)
		}
		return a.PrintChanged(*end.out, p, at.String())
	})
}

// sayHeld tells who changes something by hand, once, that the host is held to a desired
// state. Who may not look at the host is told nothing.
func (a *app) sayHeld(ctx context.Context, c *api.Client) {
	if a.SaidHeld {
		return
	}
	a.SaidHeld = true
	if info, err := c.NodeInfo(ctx); err == nil && info.Held != nil {
		a.Say("the host is kept at a desired state, which overrides this change wherever they differ; change that state, or drop it with `mvm agent reconcile --forget`")
	}
}

const poolRollbackHelp = `Roll back to the previous build, or to the given one. The agent restarts the running and
warm instances one after the other; sleeping ones boot with that build when they next wake.
`

func (a *app) poolRollbackCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "rollback TENANT/POOL [BUILD] [-o FORMAT]", Short: "Roll back to the previous build, or to the given one", Long: poolRollbackHelp,
		Args: cobra.RangeArgs(1, 2), ValidArgsFunction: a.CompletePools}
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		build := ""
		if len(args) == 2 {
			build = args[1]
			if err := mvm.ValidateBuildID(build); err != nil {
				return err
			}
		}
		return a.OnPool(cmd, args[0], func(ctx context.Context, c *api.Client, at mvm.Address) error {
			b, err := c.RollbackPool(ctx, at.Tenant, at.Pool, build)
			if err != nil {
				return err
			}
			a.Say("pool %s uses build %s of %s", at, b.ID, b.Flake)
			a.sayHeld(ctx, c)
			return a.PrintChanged(*out, b, b.ID)
		})
	}
	return cmd
}

func (a *app) poolGCCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "gc TENANT/POOL [-o FORMAT]", Short: "Remove builds that are not current, previous or in use",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompletePools}
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.OnPool(cmd, args[0], func(ctx context.Context, c *api.Client, at mvm.Address) error {
			bs, err := c.GCPool(ctx, at.Tenant, at.Pool)
			if err != nil {
				return err
			}
			a.Say("%s removed; `mvm node gc` removes their images", command.Plural(len(bs), "build", "builds"))
			return a.Print(*out, bs, func() command.Table {
				var t command.Table
				for _, b := range bs {
					t.Add(b.ID, b.Digest, b.Flake)
				}
				return t
			})
		})
	}
	return cmd
}

func (a *app) poolDestroyCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "destroy TENANT/POOL [--yes]", Short: "Destroy a pool, with its instances and their disks",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompletePools}
	yes := command.YesFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.OnPool(cmd, args[0], func(ctx context.Context, c *api.Client, at mvm.Address) error {
			if _, err := c.Pool(ctx, at.Tenant, at.Pool); err != nil {
				return err
			}
			is, err := c.Instances(ctx, at)
			if err != nil {
				return err
			}
			if err := a.Confirm(cmd, *yes, fmt.Sprintf("This destroys pool %s for good: %s.", at, command.LostInstances(is))); err != nil {
				return err
			}
			p := a.NewProgress()
			defer p.Done()
			if err := c.DestroyPool(ctx, at.Tenant, at.Pool, p.Show); err != nil {
				return err
			}
			p.Done()
			a.Say("pool %s destroyed", at)
			a.sayHeld(ctx, c)
			return nil
		})
	}
	return cmd
}
