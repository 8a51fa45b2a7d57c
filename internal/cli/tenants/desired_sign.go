package tenants

import (
	"time"

	"github.com/spf13/cobra"

	"mvm/internal/cli/command"
	"mvm/internal/desired"
	"mvm/internal/trust"
)

const signHelp = `Check a desired state (JSON or YAML; "-" for stdin), sign it for the host that its node_id
names, and print the signed state. A host accepts a signed state until it expires, and only
if its sequence number is higher than that of the last one. The default sequence number is
the time in milliseconds, so a later signature has a higher number.
`

func (a *app) desiredSignCmd() *cobra.Command {
	var key, out string
	var sequence int64
	var life time.Duration
	cmd := &cobra.Command{Use: "sign FILE --key KEYFILE [--sequence N] [--expires-in TIME] [--out FILE]", Short: "Sign a desired state",
		Long: signHelp, Args: cobra.ExactArgs(1),
		Example: "  mvm desired sign node-1.json --key ~/fleet.key --expires-in 1h --out node-1.signed.json"}
	f := cmd.Flags()
	f.StringVar(&key, "key", "", "`KEYFILE` with the private key; only you may have access to it")
	f.Int64Var(&sequence, "sequence", 0, "sequence number `N`, higher than that of the last state (default: the time in milliseconds)")
	f.DurationVar(&life, "expires-in", 24*time.Hour, "`TIME` until the state expires")
	f.StringVar(&out, "out", "-", "`FILE` to write")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if key == "" {
			return command.Usagef(cmd, "--key is missing")
		}
		data, err := a.readState(args[0], desired.MaxBytes)
		if err != nil {
			return err
		}
		doc, err := desired.Decode(data)
		if err != nil {
			return err
		}
		private, err := trust.LoadPrivate(key)
		if err != nil {
			return err
		}
		now := a.Now()
		if !cmd.Flags().Changed("sequence") {
			sequence = now.UnixMilli()
		}
		now = now.Truncate(time.Second)
		signed, err := desired.Sign(private, data, desired.Claims{NodeID: doc.NodeID, Sequence: sequence, IssuedAt: now, ExpiresAt: now.Add(life)})
		if err != nil {
			return err
		}
		return a.writeDocument(out, signed)
	}
	return cmd
}
