package hosts

import (
	"strings"

	"github.com/spf13/cobra"

	"mvm/internal/cli/command"
	"mvm/internal/pki"
)

func (a *app) certsListCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "list [-o FORMAT]", Short: "List the certificates that the CA on this host has signed", Args: cobra.NoArgs}
	open, out := a.certsFlags(cmd), command.OutputFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		c, err := open()
		if err != nil {
			return err
		}
		list, err := c.dir.Issued(a.Now())
		if err != nil {
			return err
		}
		return a.Print(*out, append([]pki.CertInfo{}, list...), func() command.Table { return a.certsTable(list) })
	}
	return cmd
}

func (a *app) certsTable(list []pki.CertInfo) command.Table {
	t := command.Table{Head: []string{"IDENTITY", "STATE", "VALID UNTIL", "SERIAL"}, None: "no certificates"}
	for _, c := range list {
		state := "ok"
		switch {
		case c.Revoked:
			state = "revoked"
		case a.Now().After(c.NotAfter):
			state = "expired"
		}
		t.Add(shortIdentity(c.Identity), state, a.until(c.NotAfter), c.Serial)
	}
	return t
}

func shortIdentity(uri string) string {
	id, err := pki.ParseIdentity(uri)
	if err != nil {
		return uri
	}
	return id.Short()
}

const certsRevokeHelp = `Revoke certificates that the CA on this host has signed: one by its serial number, all
certificates of an identity (client/laptop, tenant/alice/client/web, node/n1), or those of
all clients of a tenant (tenant/alice).

A running agent refuses them at once, also on connections that are already open. On other
nodes, install the new ca.crl with ` + "`mvm agent certs rotate --crl`" + `.
`

func (a *app) certsRevokeCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "revoke SERIAL|IDENTITY...", Short: "Revoke certificates", Long: certsRevokeHelp, Args: cobra.MinimumNArgs(1)}
	open := a.certsFlags(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		c, err := open()
		if err != nil {
			return err
		}
		for _, which := range args {
			done, err := c.dir.Revoke(strings.TrimSuffix(which, "/"), a.Now())
			if err != nil {
				return err
			}
			for _, info := range done {
				a.Say("revoked %s, serial %s", info.Identity, info.Serial)
			}
			if len(done) == 0 {
				a.Say("%s is already revoked", which)
			}
		}
		return nil
	}
	return cmd
}
