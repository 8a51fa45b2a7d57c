package tenants

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
	"mvm/internal/manifest"
)

type deployOptions struct {
	watch      bool
	interval   int
	dry        bool
	noWait     bool
	timeout    *time.Duration
	force      bool
	secretDirs []string
	out        *command.Format
}

const deployHelp = `Deploy a manifest: a tenant with its pools and secrets. Deploying the same file again
changes nothing, and continues a deploy that was interrupted. MANIFEST may be - for stdin,
or <(...) of a shell; such a manifest can name secret files only below a --secrets-dir.

The agent does the work and continues if you interrupt this command. The command waits
until the host agrees with the manifest, minimum times included, and then exits with 0.
It reports errors, and the agent retries. With --no-wait it returns once the agent has
stored the manifest.

The agent leaves an instance alone for ten minutes after a change by hand (mvm instance).
If that blocks a step, the command names the instance and exits with 6. --force takes the
instance over at once.
` + command.TimeoutHelp + `
--dry-run changes nothing and prints the steps with their reasons. It exits with 0 if there
are none, with 10 if there are some, and with 6 if the only steps are blocked by a change
by hand.

--watch deploys the file again when it or a secret file changes, and at each interval. A
change while a deploy still waits starts the next deploy at once. After an error the
command keeps watching. Ctrl-C ends it.
`

func (a *app) deployCmd() *cobra.Command {
	var o deployOptions
	cmd := &cobra.Command{Use: "deploy MANIFEST [flags]", Short: "Deploy a manifest", Long: deployHelp, Args: cobra.ExactArgs(1),
		Example: "  mvm deploy alice.toml --dry-run\n  mvm deploy alice.toml --watch --interval 60"}
	f := cmd.Flags()
	f.BoolVarP(&o.watch, "watch", "w", false, "keep running, and deploy again when the file changes")
	f.IntVar(&o.interval, "interval", 30, "with --watch: seconds between two deploys")
	f.BoolVar(&o.dry, "dry-run", false, "change nothing and print the steps; exit with 10 if there are any")
	f.BoolVar(&o.noWait, "no-wait", false, "return once the manifest is stored; the agent applies it later")
	forceFlag(cmd, &o.force)
	f.StringArrayVar(&o.secretDirs, "secrets-dir", nil, "`FOLDER` below which the file may name secret files by absolute path (repeat)")
	o.timeout = command.TimeoutFlag(cmd)
	o.out = command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if o.interval < 1 || o.interval > 86400 {
			return command.Usagef(cmd, "--interval %d is not in 1..86400", o.interval)
		}
		if o.watch && o.dry {
			return command.Usagef(cmd, "--watch and --dry-run do not go together")
		}
		if o.noWait && (o.watch || o.dry) {
			return command.Usagef(cmd, "--no-wait does not go with --watch or --dry-run")
		}
		if err := command.CheckTimeout(cmd, *o.timeout, !o.noWait && !o.dry); err != nil {
			return err
		}
		if o.watch && (args[0] == "-" || manifest.IsPipe(args[0])) {
			return command.Usagef(cmd, "--watch needs a file, and %s is a pipe", args[0])
		}
		if o.watch {
			return a.watchDeploy(cmd.Context(), args[0], o)
		}
		d, from, err := manifest.ReadDeployment(args[0], manifest.Options{SecretDirs: o.secretDirs, Stdin: a.Stdin, Remote: a.IsRemote()})
		if err != nil {
			return err
		}
		return a.deploy(cmd.Context(), d, from.Digest, o)
	}
	return cmd
}

// forceFlag has a command take over what a person changed.
func forceFlag(cmd *cobra.Command, force *bool) {
	cmd.Flags().BoolVar(force, "force", false, "also change instances that are left alone after a change by hand")
}

// deploy applies the deployment once. manifest is the digest of its file.
func (a *app) deploy(ctx context.Context, d mvm.Deployment, manifest string, o deployOptions) error {
	ctx = a.Identified(ctx)
	c, err := a.Agent(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return a.apply(ctx, c, d, mvm.ApplyOptions{Dry: o.dry, NoWait: o.noWait, Force: o.force, Manifest: manifest}, *o.timeout, *o.out)
}

// apply applies a deployment and prints the steps.
func (a *app) apply(ctx context.Context, c *api.Client, d mvm.Deployment, opts mvm.ApplyOptions, limit time.Duration, out command.Format) error {
	steps, err := a.askApply(ctx, c, d, opts, limit)
	if err != nil {
		return err
	}
	return a.PrintSteps(steps, opts.Dry, out, command.Nothing("tenant "+d.Tenant.ID+" is", opts.Dry, opts.NoWait))
}

// askApply has the agent apply a deployment, and shows how far it is.
func (a *app) askApply(ctx context.Context, c *api.Client, d mvm.Deployment, opts mvm.ApplyOptions, limit time.Duration) (steps []mvm.PlanStep, err error) {
	a.sayHeld(ctx, c)
	p := a.NewProgress()
	defer p.Done()
	err = command.Within(ctx, limit, "deploy "+d.Tenant.ID, p, func(ctx context.Context) (err error) {
		steps, err = c.Apply(ctx, d, opts, p.Show)
		return err
	})
	return steps, err
}
