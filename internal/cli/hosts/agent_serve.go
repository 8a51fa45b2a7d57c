package hosts

import (
	"mvm/internal/cli/command"
	"strings"

	"github.com/spf13/cobra"
)

const serveHelp = `Run the agent of this host until it gets SIGINT or SIGTERM. Instances keep running
without it, and the next agent recovers them.

Every flag can also be set in the environment (--run-dir as MVM_RUN_DIR) and in the
config file (as run_dir). A flag overrides the environment, and the environment overrides
the file.
`

func (a *app) agentCmd(further []*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: "agent COMMAND", Short: "The agent, which manages the host's instances", Args: cobra.ArbitraryArgs, RunE: command.Group}
	cmd.AddCommand(command.Local(a.agentServeCmd(), a.schemaCmd())...)
	cmd.AddCommand(a.agentStatusCmd(), a.agentStopCmd(), a.certsCmd(), a.auditCmd())
	cmd.AddCommand(further...)
	return cmd
}

// agentFlags are the keys of the agent's config that have a flag of their own.
func agentFlags() [][2]string {
	return [][2]string{
		{"run-dir", "`FOLDER` for sockets and pid files (default /run/mvm)"},
		{"driver", "`NAME`: qemu, firecracker (needs KVM, never run with it by its authors) or fake (default qemu)"},
		{"socket-group", "`GROUP` whose members may use the agent, besides root (default: none)"},
		{"key-file", "`FILE` with the master key, which encrypts secrets on disk (default /etc/mvm/master.key)"},
		{"node-id", "`NAME` of this host (default: generated once and kept)"},
		{"dns", "`ADDRESSES` of DNS resolvers for guests, separated by commas (default: the host's)"},
		{"desired-file", "`FILE` with the desired state to keep the host at (default: none)"},
		{"reconcile-interval", "`SECONDS` between two reconciles of the whole host (default 30)"},
		{"api-listen", "`ADDRESS:PORT` where other machines reach the API, over mutual TLS (default: off)"},
		{"cert-dir", "`FOLDER` with the certificates for the remote API (default /etc/mvm/certs)"},
		{"trust-domain", "`NAME` of the trust domain, the first part of each identity in a certificate (default mvm)"},
		{"cert-hours", "`HOURS` that a node's certificate is valid (default 24)"},
		{"api-rate", "`NUMBER` of requests per second allowed for each remote client (default 20)"},
		{"api-burst", "`NUMBER` of requests that a remote client may send at once before the rate applies (default 100)"},
		{"api-connections", "`NUMBER` of connections from all remote clients at once (default 256)"},
		{"trusted-keys", "`FOLDER` with the public keys that may sign desired states (default /etc/mvm/trusted_keys)"},
		{"production", "`BOOL`: with true, start only if the host meets every production requirement (default false)"},
		{"weak-isolation", "`BOOL`: with true, production mode accepts root, no KVM, no cgroup limits, and drivers fake and firecracker (default false)"},
		{"replace-master-key", "`ID` of a lost master key to replace; all secrets encrypted with it are lost (default: none)"},
		{"key-credential", "`NAME` of the systemd credential with the master key (default: none, use the key file)"},
		{"hostd-socket", "`PATH` of the mvm hostd socket; hostd then does what needs root (default: none)"},
		{"log-level", "`LEVEL`: debug, info, warn or error (default info)"},
		{"log-format", "`FORMAT`: text or json (default text)"},
		{"metrics-listen", "`ADDRESS:PORT` for Prometheus metrics, such as 127.0.0.1:9750, or unix:PATH (default: off)"},
		{"audit-retention-days", "`DAYS` to keep entries of the audit log (default 90)"},
	}
}

func (a *app) agentServeCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "serve [flags]", Short: "Run the agent of this host", Long: serveHelp, Args: cobra.NoArgs}
	cmd.Flags().StringVar(&a.Config, "config", "", "`FILE` with the config (MVM_CONFIG; default "+command.DefaultConfig+")")
	guest := cmd.Flags().String("guest-binary", "", "`FILE`: the static mvm-guest binary for built-in images (MVM_GUEST_BINARY; default: next to mvm)")
	for _, f := range agentFlags() {
		cmd.Flags().String(f[0], "", f[1])
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		flags := map[string]string{}
		for _, f := range agentFlags() {
			if cmd.Flags().Changed(f[0]) {
				flags[strings.ReplaceAll(f[0], "-", "_")], _ = cmd.Flags().GetString(f[0])
			}
		}
		cfg, err := a.Settings(flags, false)
		if err != nil {
			return err
		}
		if *guest == "" {
			*guest = a.Getenv("MVM_GUEST_BINARY")
		}
		return a.ServeAgent(cmd.Context(), command.ServeOptions{AgentConfig: cfg, GuestBinary: *guest, Version: a.Version})
	}
	return cmd
}
