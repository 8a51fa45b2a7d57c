package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

const serveHelp = `Run the agent of this host until it gets SIGINT or SIGTERM. Instances go on without
it, and the next agent takes them up.

Every flag can also be set in the environment (--run-dir as MVM_RUN_DIR) and in the
config file (as run_dir); a flag wins over the environment, and that over the file.
`

func (a *app) agentCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "agent COMMAND", Short: "The agent, which owns the host's instances", Args: cobra.ArbitraryArgs, RunE: group}
	cmd.AddCommand(local(a.agentServeCmd(), a.schemaCmd())...)
	cmd.AddCommand(a.agentStatusCmd(), a.agentStopCmd(), a.certsCmd(), a.auditCmd())
	cmd.AddCommand(a.agentReconcileCmd(), a.agentDesiredCmd())
	return cmd
}

// agentFlags are the keys of the agent's config that have a flag of their own.
func agentFlags() [][2]string {
	return [][2]string{
		{"run-dir", "`FOLDER` for sockets and pid files (default /run/mvm)"},
		{"driver", "`NAME`: qemu or fake (default qemu)"},
		{"socket-group", "`GROUP` that may use the agent beside root (default none)"},
		{"key-file", "`FILE` with the master key of the secrets at rest (default /etc/mvm/master.key)"},
		{"node-id", "`NAME` of this host (default: made once and kept)"},
		{"dns", "`ADDRESSES` of the resolvers of the guests, with commas (default: the host's)"},
		{"desired-file", "`FILE` with the desired state that the host is held to (default: none)"},
		{"reconcile-interval", "`SECONDS` between looks at everything that was asked for (default 30)"},
		{"api-listen", "`ADDRESS:PORT` of the API for other machines, over mutual TLS (default: none)"},
		{"cert-dir", "`FOLDER` with the certificates of that API (default /etc/mvm/certs)"},
		{"trust-domain", "`NAME` that the identities in certificates begin with (default mvm)"},
		{"cert-hours", "`HOURS` that a node's certificate lives (default 24)"},
		{"api-rate", "`NUMBER` of requests per second that a remote client may make (default 20)"},
		{"api-burst", "`NUMBER` of requests beyond the rate (default 100)"},
		{"api-connections", "`NUMBER` of connections of remote clients at once (default 256)"},
		{"trusted-keys", "`FOLDER` of the public keys that sign desired states (default /etc/mvm/trusted_keys)"},
		{"production", "`BOOL`: true: start only on a host that is fit for production (default false)"},
		{"weak-isolation", "`BOOL`: true: production mode also with driver fake and without KVM (default false)"},
		{"replace-master-key", "`ID` of a master key that is lost; the secrets that it sealed are given up (default: none)"},
		{"key-credential", "`NAME` of the systemd credential with the master key (default: none, the key file is read)"},
		{"hostd-socket", "`PATH` of the socket of mvm hostd, which then has the rights instead of the agent (default: none)"},
		{"log-level", "`LEVEL`: debug, info, warn or error (default info)"},
		{"log-format", "`FORMAT`: text or json (default text)"},
		{"metrics-listen", "`ADDRESS:PORT` where Prometheus gets the metrics, as 127.0.0.1:9750 (default: nowhere)"},
		{"audit-retention-days", "`DAYS` that an entry of the audit log is kept (default 90)"},
	}
}

func (a *app) agentServeCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "serve [flags]", Short: "Run the agent of this host", Long: serveHelp, Args: cobra.NoArgs}
	cmd.Flags().StringVar(&a.config, "config", "", "`FILE` with the config (MVM_CONFIG; default "+defaultConfig+")")
	guest := cmd.Flags().String("guest-binary", "", "`FILE`: static mvm-guest for built-in images (MVM_GUEST_BINARY; default: beside mvm)")
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
		cfg, err := a.settings(flags, false)
		if err != nil {
			return err
		}
		if *guest == "" {
			*guest = a.Getenv("MVM_GUEST_BINARY")
		}
		return a.ServeAgent(cmd.Context(), ServeOptions{AgentConfig: cfg, GuestBinary: *guest, Version: a.Version})
	}
	return cmd
}
