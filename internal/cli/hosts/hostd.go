package hosts

import (
	"mvm/internal/cli/command"
	"strings"

	"github.com/spf13/cobra"
)

// defaultHostdSocket is where mvm hostd serves when nothing else is said.
const defaultHostdSocket = "/run/mvm-hostd/hostd.sock"

const hostdHelp = `Run hostd, which does what needs root for the agent of this host: it creates networks, and
starts and ends VMMs. The agent itself then runs without root.

hostd takes no path and no program from the agent, serves only the agent's user and root,
and checks each request. It runs until it gets SIGINT or SIGTERM; the VMMs keep running.

hostd reads the agent's config: hostd_socket is the socket, and hostd_user the agent's user.
`

func (a *app) hostdCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "hostd COMMAND", Short: "hostd, which does what needs root for the agent", Args: cobra.ArbitraryArgs, RunE: command.Group}
	cmd.AddCommand(command.Local(a.hostdServeCmd())...)
	return cmd
}

// hostdFlags are the keys of the agent's config that matter here.
func hostdFlags() [][2]string {
	return [][2]string{
		{"hostd-socket", "`PATH` of the socket to serve on (default " + defaultHostdSocket + ")"},
		{"hostd-user", "`USER` that the agent runs as, by name or number (default mvm)"},
		{"run-dir", "`FOLDER` of the agent for sockets and pid files (default /run/mvm)"},
		{"log-level", "`LEVEL`: debug, info, warn or error (default info)"},
		{"log-format", "`FORMAT`: text or json (default text)"},
	}
}

func (a *app) hostdServeCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "serve [flags]", Short: "Run hostd, which does what needs root for the agent", Long: hostdHelp, Args: cobra.NoArgs}
	cmd.Flags().StringVar(&a.Config, "config", "", "`FILE` with the config (MVM_CONFIG; default "+command.DefaultConfig+")")
	for _, f := range hostdFlags() {
		cmd.Flags().String(f[0], "", f[1])
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		flags := map[string]string{}
		for _, f := range hostdFlags() {
			if cmd.Flags().Changed(f[0]) {
				flags[strings.ReplaceAll(f[0], "-", "_")], _ = cmd.Flags().GetString(f[0])
			}
		}
		cfg, err := a.Settings(flags, false)
		if err != nil {
			return err
		}
		if cfg.Hostd.Socket == "" {
			cfg.Hostd.Socket = defaultHostdSocket
		}
		return a.ServeHostd(cmd.Context(), cfg)
	}
	return cmd
}
