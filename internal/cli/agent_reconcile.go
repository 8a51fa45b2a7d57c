package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
)

// exitWould is the exit code of a dry run that would change something.
const exitWould = exitStatus(10)

type reconcileOptions struct {
	desired                          string
	dry, keep, forget, noWait, force bool
}

const reconcileHelp = `Make the host what was asked for, and wait until it is so.

Without --desired that is what is on record: the tenants and pools as mvm tenant, mvm
pool, mvm new and mvm deploy left them. The agent does so by itself; this waits for it.

With --desired the record is made to agree with a desired state first, a document
(JSON or YAML) as mvm agent desired prints it, or a signed one. All of it is checked before anything
changes. Tenants and pools that it does not name stay, unless it asks to prune them.
It is applied once; with --keep the agent holds the host to it from then on, over
restarts, until another is kept or --forget is given.

A host that is held to a state takes no other one once, which would not last: use --keep
again, or --forget first. What it destroys is told first, and asked for.

An instance that a person changed with mvm instance is left alone for ten minutes. Where
that keeps something back, it is named, and the command ends with 6. With --force it is
taken over at once.

With --dry-run nothing changes: it says what would be done, and exits with 0 when that
is nothing and with 10 when it is something; with 6 when it is nothing only because an
instance is left alone.
` + timeoutHelp

func (a *app) agentReconcileCmd() *cobra.Command {
	var o reconcileOptions
	cmd := &cobra.Command{Use: "reconcile [TENANT] [flags]", Short: "Make the host what was asked for, and wait", Long: reconcileHelp,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeTenants,
		Example: "  mvm agent reconcile --desired node-1.json --dry-run\n  mvm agent reconcile --desired node-1.json --keep"}
	f := cmd.Flags()
	f.StringVar(&o.desired, "desired", "", "`FILE` with the desired state of the host; - is stdin")
	f.BoolVar(&o.dry, "dry-run", false, "only say what would be done; exit with 10 when it is something")
	f.BoolVar(&o.keep, "keep", false, "hold the host to the state from now on")
	f.BoolVar(&o.forget, "forget", false, "no longer hold the host to a state that was kept")
	f.BoolVar(&o.noWait, "no-wait", false, "return when all is on record")
	forceFlag(cmd, &o.force)
	limit, yes, out := timeoutFlag(cmd), yesFlag(cmd), outputFlag(cmd)
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
		if err := checkTimeout(cmd, *limit, !o.noWait && !o.dry && !o.forget); err != nil {
			return err
		}
		if err := req.Validate(); err != nil {
			return usageOf(cmd, err)
		}
		return a.withAgent(cmd, func(ctx context.Context, c *api.Client) error {
			if err := a.confirmState(cmd, c, req, *yes); err != nil {
				return err
			}
			return a.runReconcile(ctx, c, req, *limit, *out)
		})
	}
	return cmd
}

func (a *app) runReconcile(ctx context.Context, c *api.Client, req mvm.ReconcileRequest, limit time.Duration, out format) error {
	p := a.newProgress()
	defer p.done()
	var steps []mvm.PlanStep
	err := within(ctx, limit, "reconcile", p, func(ctx context.Context) (err error) {
		steps, err = c.Reconcile(ctx, req, p.show)
		return err
	})
	p.done()
	if err != nil {
		return err
	}
	if req.Forget {
		a.say("the host is held to no state; it stays as it is")
		return nil
	}
	what := "the host is"
	if req.Tenant != "" {
		what = "tenant " + req.Tenant + " is"
	}
	return a.printSteps(steps, req.Dry, out, nothing(what, req.Dry, req.NoWait))
}

// nothing says that there are no steps, and what that means.
func nothing(what string, dry, noWait bool) string {
	switch {
	case dry:
		return "nothing would change"
	case noWait:
		return "nothing to change on record"
	}
	return what + " as it should be: nothing to change"
}

// printSteps prints the steps of a plan that was made so, or would be. A dry run of
// something ends with exitWould. none is said where there are no steps.
func (a *app) printSteps(steps []mvm.PlanStep, dry bool, out format, none string) error {
	err := a.print(out, steps, func() table {
		t := table{none: none}
		for _, s := range steps {
			t.add(stepText(s))
		}
		return t
	})
	if err != nil || len(steps) == 0 {
		return err
	}
	if out == asTable {
		verb := map[bool]string{false: "done", true: "would be done"}[dry]
		a.say("%s %s", plural(len(steps), "step", "steps"), verb)
	}
	if dry {
		return exitWould
	}
	return nil
}

func (a *app) agentDesiredCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "desired [-o json|yaml]", Short: "Print the desired state that would make this host again", Args: cobra.NoArgs,
		Long: `Print the desired state that would make this host again: its tenants and pools as they
are asked for. Give it to mvm agent reconcile --desired, or sign it with mvm desired sign.

Secrets are not in it, only a keyed hash of those that each tenant has. On a host that
does not have them yet set them with mvm tenant secrets set, or deploy a manifest with
them; the state can be applied before and after.
`}
	f := asJSON
	cmd.Flags().VarP(&f, "output", "o", "how to print")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if f == asTable {
			return usagef(cmd, "a desired state is no table: use -o json or -o yaml")
		}
		return a.withAgent(cmd, func(ctx context.Context, c *api.Client) error {
			doc, err := c.Desired(ctx)
			if err != nil {
				return err
			}
			return a.print(f, doc, nil)
		})
	}
	return cmd
}
