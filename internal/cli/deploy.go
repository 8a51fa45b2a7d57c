package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
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
	out        *format
}

const deployHelp = `Make the host agree with a manifest: a tenant with its pools and secrets. Applying
the same file twice changes nothing, and a run that was cut off is taken up by the next.
The manifest - is read from stdin, and <(…) of a shell works as well; such a manifest can
name secret files only below a --secrets-dir.

The agent makes it so, and goes on when this command is interrupted. It ends with 0 when
all is as the manifest says; it waits for that, minimum times included. What fails is
told, and tried again by the agent. With --no-wait it ends when all is on record.

An instance that a person changed with mvm instance is left alone for ten minutes. Where
that keeps something back, it is named, and the command ends with 6. With --force it is
taken over at once.
` + timeoutHelp + `
With --dry-run nothing changes: it says what would be done and why, and exits with 0
when that is nothing and with 10 when it is something; with 6 when it is nothing only
because an instance is left alone.

With --watch the file is applied again whenever it or a secret file changes, also while
it is being applied, and at the interval; an error is told and the watch goes on. Ctrl-C ends it.
`

func (a *app) deployCmd() *cobra.Command {
	var o deployOptions
	cmd := &cobra.Command{Use: "deploy MANIFEST [flags]", Short: "Make the host agree with a manifest", Long: deployHelp, Args: cobra.ExactArgs(1),
		Example: "  mvm deploy alice.toml --dry-run\n  mvm deploy alice.toml --watch --interval 60"}
	f := cmd.Flags()
	f.BoolVarP(&o.watch, "watch", "w", false, "go on, and apply it again when it changes")
	f.IntVar(&o.interval, "interval", 30, "seconds between applying it again, with --watch")
	f.BoolVar(&o.dry, "dry-run", false, "only say what would change; exit with 10 when it is something")
	f.BoolVar(&o.noWait, "no-wait", false, "return when all is on record; the agent makes it so")
	forceFlag(cmd, &o.force)
	f.StringArrayVar(&o.secretDirs, "secrets-dir", nil, "`FOLDER` in which secret files may be named by absolute path (repeat)")
	o.timeout = timeoutFlag(cmd)
	o.out = outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if o.interval < 1 || o.interval > 86400 {
			return usagef(cmd, "--interval %d is not in 1..86400", o.interval)
		}
		if o.watch && o.dry {
			return usagef(cmd, "--watch and --dry-run do not go together")
		}
		if o.noWait && (o.watch || o.dry) {
			return usagef(cmd, "--no-wait goes neither with --watch nor with --dry-run")
		}
		if err := checkTimeout(cmd, *o.timeout, !o.noWait && !o.dry); err != nil {
			return err
		}
		if o.watch && (args[0] == "-" || manifest.IsPipe(args[0])) {
			return usagef(cmd, "--watch watches files, and %s is a pipe", args[0])
		}
		if o.watch {
			return a.watchDeploy(cmd.Context(), args[0], o)
		}
		d, from, err := manifest.ReadDeployment(args[0], manifest.Options{SecretDirs: o.secretDirs, Stdin: a.Stdin, Remote: a.isRemote()})
		if err != nil {
			return err
		}
		return a.deploy(cmd.Context(), d, from.Digest, o)
	}
	return cmd
}

// forceFlag has a command take over what a person changed.
func forceFlag(cmd *cobra.Command, force *bool) {
	cmd.Flags().BoolVar(force, "force", false, "take over instances that a person changed, which are left alone for ten minutes")
}

// deploy applies the deployment once. manifest is the digest of its file.
func (a *app) deploy(ctx context.Context, d mvm.Deployment, manifest string, o deployOptions) error {
	ctx = a.identified(ctx)
	c, err := a.agent(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return a.apply(ctx, c, d, mvm.ApplyOptions{Dry: o.dry, NoWait: o.noWait, Force: o.force, Manifest: manifest}, *o.timeout, *o.out)
}

// apply applies a deployment and prints the steps.
func (a *app) apply(ctx context.Context, c *api.Client, d mvm.Deployment, opts mvm.ApplyOptions, limit time.Duration, out format) error {
	steps, err := a.askApply(ctx, c, d, opts, limit)
	if err != nil {
		return err
	}
	return a.printSteps(steps, opts.Dry, out, nothing("tenant "+d.Tenant.ID+" is", opts.Dry, opts.NoWait))
}

// askApply has the agent apply a deployment, and shows how far it is.
func (a *app) askApply(ctx context.Context, c *api.Client, d mvm.Deployment, opts mvm.ApplyOptions, limit time.Duration) (steps []mvm.PlanStep, err error) {
	a.sayHeld(ctx, c)
	p := a.newProgress()
	defer p.done()
	err = within(ctx, limit, "deploy "+d.Tenant.ID, p, func(ctx context.Context) (err error) {
		steps, err = c.Apply(ctx, d, opts, p.show)
		return err
	})
	return steps, err
}

// stepText writes a step of a plan, with a sign for what comes, goes and changes.
func stepText(s mvm.PlanStep) string {
	sign := "~"
	switch {
	case strings.HasPrefix(s.Action, "create"):
		sign = "+"
	case strings.HasPrefix(s.Action, "destroy"):
		sign = "-"
	}
	return fmt.Sprintf("%s %s %s%s", sign, s.Action, s.Target, because(s.Reason))
}
