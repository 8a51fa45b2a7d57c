package tenants

import (
	"strconv"

	"github.com/spf13/cobra"

	"mvm/internal/cli/command"
	"mvm/internal/desired"
	"mvm/internal/trust"
)

const desiredVerifyHelp = `Check a signed desired state ("-" for stdin) as a host would: the signature, the host it is
for, its validity period and the document itself. This command does not know which sequence
number the host accepted last; give it with --after. It exits with 4 if a host would refuse
the state, and with 2 if the state is malformed.
`

// verified is what there is to say of a signed state that is good.
type verified struct {
	desired.Accepted
	KeyFile string `json:"key_file"`
	Tenants int    `json:"tenants"`
	Pools   int    `json:"pools"`
}

func (a *app) desiredVerifyCmd() *cobra.Command {
	var keys, node string
	var after int64
	var document bool
	cmd := &cobra.Command{Use: "verify FILE [--trusted-keys FOLDER] [--node-id NAME] [--after N] [--document | -o FORMAT]", Short: "Check a signed desired state",
		Long: desiredVerifyHelp, Args: cobra.ExactArgs(1)}
	out := command.OutputFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&keys, "trusted-keys", "", "`FOLDER` with the trusted public keys (default: from the agent's config)")
	f.StringVar(&node, "node-id", "", "`NAME` of the host it must be for (default: from the agent's config, else any)")
	f.Int64Var(&after, "after", 0, "require a sequence number higher than `N`")
	f.BoolVar(&document, "document", false, "print the signed document unchanged")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := a.Settings(nil, true)
		if err != nil {
			return err
		}
		if keys == "" {
			keys = cfg.Trust.TrustedKeys
		}
		if node == "" {
			node = cfg.NodeID
		}
		data, err := a.readDocument(args[0], desired.MaxEnvelopeBytes)
		if err != nil {
			return err
		}
		v, err := a.verify(data, keys, node, after)
		if err != nil {
			return err
		}
		if !document {
			return a.Print(*out, v, v.table)
		}
		_, payload, err := desired.DecodeEnvelope(data)
		if err != nil {
			return err
		}
		return a.writeDocument("-", payload)
	}
	return cmd
}

// verify checks a signed state; an empty node stands for the one that it names.
func (a *app) verify(data []byte, folder, node string, after int64) (verified, error) {
	keys, err := trust.Load(folder)
	if err != nil {
		return verified{}, err
	}
	if node == "" && desired.IsSigned(data) {
		e, _, err := desired.DecodeEnvelope(data)
		if err != nil {
			return verified{}, err
		}
		node = e.NodeID
	}
	doc, got, err := trust.Verifier(keys).Verify(data, node, desired.Accepted{NodeID: node, Sequence: after}, a.Now())
	if err != nil {
		return verified{}, err
	}
	v := verified{Accepted: got, Tenants: len(doc.Tenants)}
	for _, t := range doc.Tenants {
		v.Pools += len(t.Pools)
	}
	for _, k := range keys {
		if k.ID == got.KeyID {
			v.KeyFile = k.File
		}
	}
	return v, nil
}

func (v verified) table() command.Table {
	var t command.Table
	t.Add("node", v.NodeID)
	t.Add("sequence", strconv.FormatInt(v.Sequence, 10))
	t.Add("key", v.KeyID+" "+v.KeyFile)
	t.Add("issued", v.IssuedAt.Format("2006-01-02 15:04:05Z"))
	t.Add("expires", v.ExpiresAt.Format("2006-01-02 15:04:05Z"))
	t.Add("holds", strconv.Itoa(v.Tenants)+" tenants, "+strconv.Itoa(v.Pools)+" pools")
	t.Add("digest", v.Digest)
	return t
}
