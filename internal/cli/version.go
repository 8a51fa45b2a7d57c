package cli

import (
	"github.com/spf13/cobra"

	"mvm/internal/api"
	"mvm/internal/cli/command"
)

func (a *app) versionCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "version [-o FORMAT]", Short: "Show the version of mvm, and of the agent if it answers", Args: cobra.NoArgs}
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		v := struct {
			Client api.Version  `json:"client"`
			Agent  *api.Version `json:"agent,omitempty"`
		}{Client: a.Version}
		v.Client.API = api.APIVersion
		if c, err := a.Peek(cmd.Context()); err == nil {
			defer c.Close()
			if got, err := c.Version(cmd.Context()); err == nil {
				v.Agent = &got
			}
		}
		return a.Print(*out, v, func() command.Table {
			var t command.Table
			t.Add("mvm", versionText(v.Client))
			if v.Agent != nil {
				t.Add("agent", versionText(*v.Agent))
			}
			return t
		})
	}
	return cmd
}

func versionText(v api.Version) string {
	s := v.Version
	if v.Revision != "" {
		s += " " + v.Revision
	}
	if v.Go != "" {
		s += " " + v.Go
	}
	return s
}

// helpCmd is `mvm help COMMAND`, which is `mvm COMMAND --help`.
func (a *app) helpCmd(root *cobra.Command) *cobra.Command {
	help := &cobra.Command{Use: "help [COMMAND]...", Short: "Show the help of a command", Args: cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return command.Group(cmd, rest)
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
			cmd, _, err := root.Find(args)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			for _, c := range cmd.Commands() {
				if c.IsAvailableCommand() {
					names = append(names, c.Name()+"\t"+c.Short)
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		}}
	root.SetHelpCommand(help)
	return help
}
