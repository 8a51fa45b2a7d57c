package hosts

import (
	"time"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/cli/command"
	"mvm/internal/pki"
)

// hostFlag adds --host, for names under which a node answers.
func hostFlag(cmd *cobra.Command) *[]string {
	return cmd.Flags().StringArray("host", nil, "additional `NAME` or address by which clients reach this node (repeat)")
}

const certsInitHelp = `Create what this host needs to serve other machines: its own CA and a certificate for this
node. Files that exist are kept, so running the command again changes nothing. The agent
renews the node's certificate halfway through its validity.

Keep a backup of ca.key in a safe place: anyone who has it can create operator
certificates.
`

func (a *app) certsInitCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "init [flags]", Short: "Create a CA and a certificate for this node", Long: certsInitHelp, Args: cobra.NoArgs}
	open, hosts := a.certsFlags(cmd), hostFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		c, err := open()
		if err != nil {
			return err
		}
		made, err := c.dir.Init(a.Now())
		if err != nil {
			return err
		}
		if made {
			a.Say("CA of trust domain %s created in %s; keep a backup of ca.key in a safe place", c.cfg.Remote.TrustDomain, c.cfg.Remote.CertDir)
		} else {
			a.Say("the CA in %s is kept", c.cfg.Remote.CertDir)
		}
		if c.dir.HasNode() {
			a.Say("the node's certificate is kept; `mvm agent certs rotate` creates a new one")
			return nil
		}
		return a.issueNode(c, *hosts)
	}
	return cmd
}

func (a *app) issueNode(c certs, more []string) error {
	id, err := c.nodeID()
	if err != nil {
		return err
	}
	hosts := c.hosts(id, more)
	info, err := c.dir.RotateNode(id, hosts, c.life(), a.Now())
	if err != nil {
		return err
	}
	a.Say("certificate of %s made, valid until %s, for %v", info.Identity, a.until(info.NotAfter), info.Hosts)
	return nil
}

// life is how long a node's certificate lives.
func (c certs) life() time.Duration { return time.Duration(c.cfg.Remote.CertHours) * time.Hour }

const certsRotateHelp = `Replace this node's key and certificate. The agent uses them at once, without a restart.

If the CA's key is on this host, the CA signs the new certificate. Otherwise create a
request with ` + "`mvm agent certs request`" + `, sign it on the CA's host, and install the result
with --cert. --ca installs the CA's certificate (the first time), and --crl its list of
revoked certificates.
`

func (a *app) certsRotateCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "rotate [flags]", Short: "Replace this node's certificate", Long: certsRotateHelp, Args: cobra.NoArgs}
	open, hosts := a.certsFlags(cmd), hostFlag(cmd)
	cert := cmd.Flags().String("cert", "", "`FILE` with the signed certificate for the last request")
	ca := cmd.Flags().String("ca", "", "`FILE` with the CA's certificate (ca.pem from the CA's host)")
	crl := cmd.Flags().String("crl", "", "`FILE` with the list of revoked certificates (ca.crl from the CA's host)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := open()
		if err != nil {
			return err
		}
		if *cert != "" || *ca != "" || *crl != "" {
			if len(*hosts) > 0 {
				return command.Usagef(cmd, "--host does not go with --cert, --ca or --crl: give it to `mvm agent certs request`")
			}
			return a.installNode(c, *cert, *ca, *crl)
		}
		if !c.dir.HasCAKey() {
			return mvm.Errorf(mvm.KindState, "rotate this node's certificate: the CA's key is on another host").
				WithFix("run `mvm agent certs request` here, sign the request there, and install the certificate with --cert")
		}
		if !c.dir.HasNode() {
			return a.issueNode(c, *hosts)
		}
		all, err := a.hostsNow(c, *hosts)
		if err != nil {
			return err
		}
		info, err := c.dir.RotateNode(c.cfg.NodeID, all, c.life(), a.Now())
		if err != nil {
			return err
		}
		a.Say("new certificate of %s, valid until %s, for %v", info.Identity, a.until(info.NotAfter), info.Hosts)
		return nil
	}
	return cmd
}

// hostsNow are those of the present certificate and the ones that are added.
func (a *app) hostsNow(c certs, more []string) ([]string, error) {
	s, err := c.dir.Status(a.Now())
	if err != nil || s.Node == nil || len(more) == 0 {
		return nil, err
	}
	return unique(append(s.Node.Hosts, more...)), nil
}

func (a *app) installNode(c certs, certFile, caFile, crlFile string) error {
	var text [3][]byte
	for n, path := range []string{certFile, caFile, crlFile} {
		var err error
		if text[n], err = a.optionalPEM(path); err != nil {
			return err
		}
	}
	info, err := c.dir.InstallNode(text[0], text[1], text[2], a.Now())
	if err != nil {
		return err
	}
	if text[0] != nil {
		a.Say("new certificate of %s, valid until %s, for %v", info.Identity, a.until(info.NotAfter), info.Hosts)
	} else {
		a.Say("installed")
	}
	return nil
}

func (a *app) certsStatusCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "status [-o FORMAT]", Short: "Show this node's certificate and its CA; exit with 4 if remote clients can't be served", Args: cobra.NoArgs}
	open, out := a.certsFlags(cmd), command.OutputFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		c, err := open()
		if err != nil {
			return err
		}
		s, err := c.dir.Status(a.Now())
		if err != nil {
			return err
		}
		if err := a.Print(*out, s, func() command.Table { return a.statusTable(s) }); err != nil {
			return err
		}
		if s.Problem != "" {
			return mvm.Errorf(mvm.KindState, "%s", s.Problem).WithFix("%s", s.Fix)
		}
		return nil
	}
	return cmd
}

func (a *app) statusTable(s pki.Status) command.Table {
	var t command.Table
	t.Add("folder", s.Dir)
	if s.Node != nil {
		certTable(&t, a, *s.Node)
		renews := "by hand: the CA's key is on another host, or another user's"
		if s.RenewsItself {
			renews = "by the running agent, from " + s.RenewAt.UTC().Format(time.RFC3339)
		}
		t.Add("renewed", renews)
	}
	if s.RequestWaits {
		t.Add("request", "not answered yet: install the certificate with `mvm agent certs rotate --cert`")
	}
	if s.CA != nil {
		t.Add("CA", s.CA.Subject)
		t.Add("CA valid until", a.until(s.CA.NotAfter))
		if s.CAKeyHere {
			t.Add("CA's key", "here: a process that can read it can create operators for every host of this CA (docs/remote.md)")
		}
		t.Add("CA fingerprint", "SHA256:"+s.CA.Fingerprint)
		t.Add("revoked", command.Plural(s.Revoked, "certificate", "certificates")+", list "+s.RevokedNumber)
	}
	return t
}
