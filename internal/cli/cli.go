// Package cli is the command line of mvm: it parses, asks the agent, prints. Data
// goes to stdout, progress and prose to stderr. What all commands have is in package
// command. The commands are in tenants, instances and hosts: every noun has its files, each
// verb with its options, its command and its run.
package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/cli/builds"
	"mvm/internal/cli/command"
	"mvm/internal/cli/hosts"
	"mvm/internal/cli/images"
	"mvm/internal/cli/instances"
	"mvm/internal/cli/tenants"
	"mvm/internal/display"
)

const rootHelp = `mvm runs each assistant in its own microVM. The microVM sleeps when idle and wakes when a
message arrives.

Names have the form tenant, tenant/pool and tenant/pool/instance. For an instance you can
also give its id alone, or tenant/pool@key for the instance of a user. If a pool has one
instance, tenant/pool names it too, except to destroy it.
`

// Env is all that the command line takes from its process.
type Env = command.Env

// ServeOptions say how an agent works.
type ServeOptions = command.ServeOptions

// ExitCode is the exit code of a command that ended with the error.
func ExitCode(err error) int { return command.ExitCode(err) }

// app is one run of the command line, with the commands of this package.
type app struct{ *command.App }

// New returns the command tree.
func New(env Env) *cobra.Command {
	a := &app{command.NewApp(env)}
	root := &cobra.Command{
		Use: "mvm", Short: "Run assistants in microVMs that sleep when idle", Long: rootHelp + command.ExitHelp,
		SilenceErrors: true, SilenceUsage: true, Args: cobra.ArbitraryArgs, RunE: command.Group,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetIn(env.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return command.UsageOf(cmd, command.FlagError(err)) })
	a.GlobalFlags(root)
	a.addCommands(root)
	command.Finish(root)
	return root
}

func (a *app) addCommands(root *cobra.Command) {
	t, i := tenants.New(a.App), instances.New(a.App)
	h := hosts.New(a.App, t.OfAgent)
	root.AddGroup(&cobra.Group{ID: "daily", Title: "Daily use:"}, &cobra.Group{ID: "nouns", Title: "Nouns:"},
		&cobra.Group{ID: "host", Title: "The host:"})
	add := func(id string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	add("daily", t.New, t.Deploy, t.Connect, i.PS, i.Top, i.Logs, i.Exec, i.CP, i.Why, i.Events)
	add("nouns", t.Tenant, t.Pool, i.Instance, images.New(a.App), builds.New(a.App), t.Templates, t.Inbox)
	add("host", h.Agent, h.Hostd, h.Node, h.Net, h.Doctor, t.Desired, a.completionCmd(root), a.helpCmd(root), a.versionCmd())
}

// Run executes the command line and returns the exit code. Errors go to Stderr.
func Run(ctx context.Context, env Env, args []string) int {
	root := New(env)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && ctx.Err() != nil && !errors.Is(err, command.Interrupted) && mvm.KindOf(err) != mvm.KindCanceled {
		err = mvm.Errorf(mvm.KindCanceled, "interrupted: %w", err)
	}
	command.Report(display.NewWriter(env.Stderr), err)
	return ExitCode(err)
}
