// Package cli is the command line of mvm: it parses, asks the agent, prints. Data
// goes to stdout, progress and prose to stderr. Every noun has its files, each verb
// with its options, its command and its run.
package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/display"
)

const rootHelp = `mvm runs each assistant in its own microVM. The microVM sleeps when idle and wakes when a
message arrives.

Names have the form tenant, tenant/pool and tenant/pool/instance. For an instance you can
also give its id alone, or tenant/pool@key for the instance of a user.
`

// New returns the command tree.
func New(env Env) *cobra.Command {
	a := newApp(env)
	root := &cobra.Command{
		Use: "mvm", Short: "Run assistants in microVMs that sleep when idle", Long: rootHelp + exitHelp,
		SilenceErrors: true, SilenceUsage: true, Args: cobra.ArbitraryArgs, RunE: group,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetIn(env.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageOf(cmd, flagError(err)) })
	a.globalFlags(root)
	a.addCommands(root)
	finish(root)
	return root
}

func (a *app) addCommands(root *cobra.Command) {
	root.AddGroup(&cobra.Group{ID: "daily", Title: "Daily use:"}, &cobra.Group{ID: "nouns", Title: "Nouns:"},
		&cobra.Group{ID: "host", Title: "The host:"})
	add := func(id string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	add("daily", a.newCmd(), a.deployCmd(), a.connectCmd(), a.psCmd(), a.topCmd(), a.logsCmd(), a.execCmd(), a.cpCmd(), a.whyCmd(), a.eventsCmd())
	add("nouns", a.tenantCmd(), a.poolCmd(), a.instanceCmd(), a.inboxCmd())
	add("host", a.agentCmd(), a.hostdCmd(), a.nodeCmd(), a.netCmd(), a.doctorCmd(), a.desiredCmd(), a.completionCmd(root), a.helpCmd(root), a.versionCmd())
}

// Run executes the command line and returns the exit code. Errors go to Stderr.
func Run(ctx context.Context, env Env, args []string) int {
	root := New(env)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && ctx.Err() != nil && !errors.Is(err, interrupted) && mvm.KindOf(err) != mvm.KindCanceled {
		err = mvm.Errorf(mvm.KindCanceled, "interrupted: %w", err)
	}
	report(display.NewWriter(env.Stderr), err)
	return ExitCode(err)
}
