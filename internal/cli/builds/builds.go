// Package builds has the commands on builds of images.
package builds

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/build"
	"mvm/internal/cli/command"
	"mvm/internal/display"
)

// app is one run of the command line, with the commands of this package.
type app struct{ *command.App }

const buildsHelp = `List builds of images, newest first. A build begins with mvm pool build, and when the agent
needs an image that a pool does not have. It continues if the command that waits for it is
interrupted. Pools of a tenant that need the same image wait for the same build.

STATE is queued (waiting for a turn, or for another build of the same image), resolving (looking
up what the reference names), building, done, failed or cancelled. The last builds of each tenant
are kept.
`

// New makes the command builds.
func New(run *command.App) *cobra.Command {
	a := &app{run}
	cmd := &cobra.Command{Use: "builds [TENANT | TENANT/POOL] [-o FORMAT]", Short: "Builds of images: list, show, follow, cancel", Long: buildsHelp,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.CompletePools}
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.list(cmd, args, *out) }
	cmd.AddCommand(a.infoCmd(), a.logsCmd(), a.cancelCmd())
	return cmd
}

func (a *app) list(cmd *cobra.Command, args []string, out command.Format) error {
	var at mvm.Address
	if len(args) > 0 {
		var err error
		if at, err = mvm.ParseAddress(args[0]); err != nil {
			return err
		}
		if at.Tenant == "" || at.Instance != "" || at.Key != "" {
			return command.Usagef(cmd, "%q does not name a tenant or a pool", args[0])
		}
	}
	return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
		if at.Pool != "" {
			if _, err := c.Pool(ctx, at.Tenant, at.Pool); err != nil {
				return err
			}
		}
		all, err := c.Builds(ctx, at.Tenant)
		if err != nil {
			return err
		}
		if at.Pool != "" {
			all = slices.DeleteFunc(all, func(r build.Run) bool { return !slices.Contains(r.Pools, at.Pool) })
		}
		return a.Print(out, all, func() command.Table { return a.table(all) })
	})
}

func (a *app) table(all []build.Run) command.Table {
	t := command.Table{Head: []string{"BUILD", "TENANT", "POOLS", "REFERENCE", "STATE", "AGE", "TOOK", "IMAGE", "NOTE"}, None: "no builds"}
	for _, r := range all {
		t.Add(r.ID, r.Tenant, command.Dash(strings.Join(r.Pools, ",")), r.Ref, string(r.State), a.Ago(r.Created), command.Took(r.Took(a.Now())),
			command.Dash(command.Clip(r.Image, 19)), note(r))
	}
	return t
}

// note says what a build is at, or how it ended.
func note(r build.Run) string {
	switch {
	case r.State == build.Done:
		return ""
	case r.Error != "":
		return r.Error
	}
	return r.Step
}

func (a *app) infoCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "info BUILD [-o FORMAT]", Short: "Show a build: who asked, how far it is, how it ended",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompleteBuilds}
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.onBuild(cmd, args[0], func(ctx context.Context, c *api.Client, id string) error {
			r, err := c.BuildRun(ctx, id)
			if err != nil {
				return err
			}
			return a.Print(*out, r, func() command.Table { return a.infoTable(r) })
		})
	}
	return cmd
}

func (a *app) infoTable(r build.Run) command.Table {
	var t command.Table
	t.Add("build", r.ID)
	t.Add("reference", r.Ref)
	t.Add("for", fmt.Sprintf("role %s, profile %s", r.Role, r.Profile))
	for _, p := range r.Pools {
		t.Add("pool", mvm.Address{Tenant: r.Tenant, Pool: p}.String())
	}
	t.Add("state", string(r.State))
	t.Add("asked by", r.By.String())
	if r.Request != "" {
		t.Add("request", r.Request)
	}
	t.Add("created", fmt.Sprintf("%s ago (%s)", a.Ago(r.Created), r.Created.Local().Format("2006-01-02 15:04:05")))
	t.Add("took", command.Took(r.Took(a.Now())))
	if r.Tries > 0 {
		t.Add("failed before", command.Plural(r.Tries, "try", "tries")+" in a row")
	}
	for _, f := range [][2]string{{"last step", r.Step}, {"image", r.Image}, {"reason", r.Error}, {"fix", r.Fix}} {
		if f[1] != "" {
			t.Add(f[0], f[1])
		}
	}
	return t
}

const logsHelp = `Show what a build says. --follow continues until the build ends, says how it ended, and exits
with 0. The log is kept as long as the build is listed, up to 256 KiB.
`

func (a *app) logsCmd() *cobra.Command {
	var spec mvm.LogsSpec
	cmd := &cobra.Command{Use: "logs BUILD [flags]", Short: "Show or follow what a build says", Long: logsHelp,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompleteBuilds}
	f := cmd.Flags()
	f.BoolVarP(&spec.Follow, "follow", "f", false, "keep running and print new lines")
	f.IntVarP(&spec.Tail, "tail", "n", 0, "show only the last lines; 0: all that are kept")
	times := f.BoolP("timestamps", "t", false, "print the time before each line")
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if spec.Tail < 0 {
			return command.Usagef(cmd, "--tail %d is less than 0", spec.Tail)
		}
		return a.onBuild(cmd, args[0], func(ctx context.Context, c *api.Client, id string) error {
			err := c.BuildLogs(ctx, id, spec, func(l mvm.LogLine) error {
				before := ""
				if *times {
					before = l.Time.Local().Format("15:04:05") + " "
				}
				if *out == command.AsTable {
					l.Text = display.Line(l.Text)
				}
				return a.PrintLog(*out, before, l)
			})
			if err != nil || !spec.Follow {
				return command.Followed(ctx, spec.Follow, err)
			}
			r, err := c.BuildRun(ctx, id)
			if err == nil {
				a.Say("build %s is %s", id, r.State)
			}
			return err
		})
	}
	return cmd
}

const cancelHelp = `Cancel a build. Commands that wait for it end with exit code 4, and its pools keep the image
that they have. The agent does not begin the same build again by itself for ten minutes;
mvm pool build does.
`

func (a *app) cancelCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "cancel BUILD [-o FORMAT]", Short: "Cancel a build", Long: cancelHelp,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompleteBuilds}
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.onBuild(cmd, args[0], func(ctx context.Context, c *api.Client, id string) error {
			r, err := c.CancelBuild(ctx, id)
			if err != nil {
				return err
			}
			if r.State.Ended() {
				a.Say("build %s is %s", id, r.State)
			} else {
				a.Say("build %s is told to end", id)
			}
			return a.PrintChanged(*out, r, id)
		})
	}
	return cmd
}

// onBuild runs f with a client and the build that the argument names.
func (a *app) onBuild(cmd *cobra.Command, id string, f func(ctx context.Context, c *api.Client, id string) error) error {
	if err := mvm.ValidateBuildID(id); err != nil {
		return err
	}
	return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error { return f(ctx, c, id) })
}
