package tenants

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
)

type reconcileOptions struct {
	desired                          string
	dry, keep, forget, noWait, force bool
}

const reconcileHelp = `Reconcile the host with its desired state, and wait until they agree.

Without --desired the desired state is what mvm tenant, mvm pool, mvm new and mvm deploy
have set. The agent reconciles all the time; the command starts a pass now and waits for it.

With --desired the command first applies a desired state: a JSON or YAML document as
mvm agent desired prints it, or a signed one. The agent checks the whole document before
it changes anything. Tenants and pools that the document does not name stay, unless it
asks to prune them. The document is applied once. With --keep the agent keeps the host at
this state, also after restarts, until another state is kept or --forget is given.

While a state is kept, the agent refuses to apply another one once: use --keep again, or
--forget first. If the document would destroy something, the command lists it and asks.

The agent leaves an instance alone for ten minutes after a change by hand (mvm instance).
If that blocks a step, the command names the instance and exits with 6. --force takes the
instance over at once.

--dry-run changes nothing and prints the steps. It exits with 0 if there are none, with 10
if there are some, and with 6 if the only steps are blocked by a change by hand.
` + command.TimeoutHelp

func (a *app) agentReconcileCmd() *cobra.Command {
	var o reconcileOptions
	cmd := &cobra.Command{Use: "reconcile [TENANT] [flags]", Short: "Reconcile the host with its desired state, and wait", Long: reconcileHelp,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.CompleteTenants,
		Example: "  mvm agent reconcile --desired node-1.json --dry-run\n  mvm agent reconcile --desired node-1.json --keep"}
	f := cmd.Flags()
	f.StringVar(&o.desired, "desired", "", "`FILE` with the desired state of the host; - is stdin")
	f.BoolVar(&o.dry, "dry-run", false, "change nothing and print the steps; exit with 10 if there are any")
	f.BoolVar(&o.keep, "keep", false, "keep the host at this state from now on")
	f.BoolVar(&o.forget, "forget", false, "stop keeping the host at a state")
	f.BoolVar(&o.noWait, "no-wait", false, "return once the desired state is stored; the agent applies it later")
	forceFlag(cmd, &o.force)
	limit, yes, out := command.TimeoutFlag(cmd), command.YesFlag(cmd), command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req := mvm.ReconcileRequest{Dry: o.dry, Keep: o.keep, Forget: o.forget, NoWait: o.noWait, Force: o.force}
		if len(args) == 1 {
			req.Tenant = args[0]
		}
		if o.desired != "" {
			state, err := a.readState(o.desired, mvm.MaxStateBytes)
			if err != nil {
				return err
			}
			req.State = state
		}
		if err := command.CheckTimeout(cmd, *limit, !o.noWait && !o.dry && !o.forget); err != nil {
			return err
		}
		if err := req.Validate(); err != nil {
			return command.UsageOf(cmd, err)
		}
		return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
			if err := a.confirmState(cmd, c, req, *yes); err != nil {
				return err
			}
			return a.runReconcile(ctx, c, req, *limit, *out)
		})
	}
	return cmd
}

func (a *app) runReconcile(ctx context.Context, c *api.Client, req mvm.ReconcileRequest, limit time.Duration, out command.Format) error {
	p := a.NewProgress()
	defer p.Done()
	var steps []mvm.PlanStep
	err := command.Within(ctx, limit, "reconcile", p, func(ctx context.Context) (err error) {
		steps, err = c.Reconcile(ctx, req, p.Show)
		return err
	})
	p.Done()
	if err != nil {
		return err
	}
	if req.Forget {
		a.Say("the host is no longer kept at a state; it stays as it is")
		return nil
	}
	what := "the host is"
	if req.Tenant != "" {
		what = "tenant " + req.Tenant + " is"
	}
	return a.PrintSteps(steps, req.Dry, out, command.Nothing(what, req.Dry, req.NoWait))
}

func (a *app) agentDesiredCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "desired [-o json|yaml]", Short: "Print the desired state that would recreate this host", Args: cobra.NoArgs,
		Long: `Print the desired state that would recreate this host: its tenants and pools with all
settings. Apply it with mvm agent reconcile --desired, or sign it with mvm desired sign.

The document has no secrets, only a keyed hash of each tenant's secrets. On another host,
set the secrets with mvm tenant secrets set or deploy a manifest that has them, before or
after you apply the document.
`}
	f := command.AsJSON
	cmd.Flags().VarP(&f, "output", "o", "output format")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if f == command.AsTable {
			return command.Usagef(cmd, "a desired state has no table format: use -o json or -o yaml")
		}
		return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
			doc, err := c.Desired(ctx)
			if err != nil {
				return err
			}
			return a.Print(f, doc, nil)
		})
	}
	return cmd
}
