package cli

import (
	"time"

	"github.com/spf13/cobra"

	"mvm/internal/desired"
	"mvm/internal/trust"
)

const signHelp = `Check a desired state (JSON or YAML; "-" for stdin), sign it for the host that its node_id
names, and print the signed state. A host takes a signed state until it expires, and
only with a sequence number above that of the one before. The sequence number is the
time in milliseconds if none is given, so that what is signed later is newer.
`

func (a *app) desiredSignCmd() *cobra.Command {
	var key, out string
	var sequence int64
	var life time.Duration
	cmd := &cobra.Command{Use: "sign FILE --key KEYFILE [--sequence N] [--expires-in TIME] [--out FILE]", Short: "Sign a desired state",
		Long: signHelp, Args: cobra.ExactArgs(1),
		Example: "  mvm desired sign node-1.json --key ~/fleet.key --expires-in 1h --out node-1.signed.json"}
	f := cmd.Flags()
	f.StringVar(&key, "key", "", "`KEYFILE` with the private key; for this user alone")
	f.Int64Var(&sequence, "sequence", 0, "`N`: number of this state, above that of the one before (default the time in milliseconds)")
	f.DurationVar(&life, "expires-in", 24*time.Hour, "`TIME` in which hosts take the state")
	f.StringVar(&out, "out", "-", "`FILE` to write")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if key == "" {
			return usagef(cmd, "--key is missing")
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
