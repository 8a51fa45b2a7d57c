package cli

import (
	"time"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/pki"
)

// hostFlag adds --host, for names under which a node answers.
func hostFlag(cmd *cobra.Command) *[]string {
	return cmd.Flags().StringArray("host", nil, "`NAME` or address under which clients reach this node, beside the known ones (repeat)")
}

const certsInitHelp = `Make what this host needs to answer other machines: a CA of its own, and the
certificate of this node. What is there already is kept, so running it again changes
nothing. A running agent renews the node's certificate in the middle of its life.

Keep a copy of ca.key in a safe place: whoever has it can make himself an operator.
`

func (a *app) certsInitCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "init [flags]", Short: "Make a CA and this node's certificate", Long: certsInitHelp, Args: cobra.NoArgs}
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
			a.say("CA of trust domain %s made in %s; keep a copy of ca.key in a safe place", c.cfg.Remote.TrustDomain, c.cfg.Remote.CertDir)
		} else {
			a.say("the CA in %s is kept", c.cfg.Remote.CertDir)
		}
		if c.dir.HasNode() {
			a.say("the node's certificate is kept; `mvm agent certs rotate` makes a new one")
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
	a.say("certificate of %s made, valid until %s, for %v", info.Identity, a.until(info.NotAfter), info.Hosts)
	return nil
}

// life is how long a node's certificate lives.
func (c certs) life() time.Duration { return time.Duration(c.cfg.Remote.CertHours) * time.Hour }

const certsRotateHelp = `Give this node a new key and certificate, at once and without a restart of the agent.

Where the CA's key is on this host it signs the new one. Elsewhere the new certificate
comes with --cert: the answer to the last ` + "`mvm agent certs request`" + `. --ca and --crl
take over the certificate of the CA, the first time, and its list of revoked ones.
`

func (a *app) certsRotateCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "rotate [flags]", Short: "Give this node a new certificate", Long: certsRotateHelp, Args: cobra.NoArgs}
	open, hosts := a.certsFlags(cmd), hostFlag(cmd)
	cert := cmd.Flags().String("cert", "", "`FILE` with the certificate that answers the last request")
	ca := cmd.Flags().String("ca", "", "`FILE` with the certificate of the CA (ca.pem of the host that signs)")
	crl := cmd.Flags().String("crl", "", "`FILE` with the list of revoked certificates (ca.crl of the host that signs)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := open()
		if err != nil {
			return err
		}
		if *cert != "" || *ca != "" || *crl != "" {
			if len(*hosts) > 0 {
				return usagef(cmd, "--host is for the request of a certificate that is signed elsewhere")
			}
			return a.installNode(c, *cert, *ca, *crl)
		}
		if !c.dir.HasCAKey() {
			return mvm.Errorf(mvm.KindState, "rotate this node's certificate: the key of its CA is on another host").
				WithFix("run `mvm agent certs request` here, sign it there, and give the answer with --cert")
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
		a.say("new certificate of %s, valid until %s, for %v", info.Identity, a.until(info.NotAfter), info.Hosts)
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
		a.say("new certificate of %s, valid until %s, for %v", info.Identity, a.until(info.NotAfter), info.Hosts)
	} else {
		a.say("taken over")
	}
	return nil
}

func (a *app) certsStatusCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "status [-o FORMAT]", Short: "Show this node's certificate and its CA; ends with 4 when remote clients can't be served", Args: cobra.NoArgs}
	open, out := a.certsFlags(cmd), outputFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		c, err := open()
		if err != nil {
			return err
		}
		s, err := c.dir.Status(a.Now())
		if err != nil {
			return err
		}
		if err := a.print(*out, s, func() table { return a.statusTable(s) }); err != nil {
			return err
		}
		if s.Problem != "" {
			return mvm.Errorf(mvm.KindState, "%s", s.Problem).WithFix("%s", s.Fix)
		}
		return nil
	}
	return cmd
}

func (a *app) statusTable(s pki.Status) table {
	var t table
	t.add("folder", s.Dir)
	if s.Node != nil {
		certTable(&t, a, *s.Node)
		renews := "by hand: the CA's key is on another host, or another user's"
		if s.RenewsItself {
			renews = "by the running agent, from " + s.RenewAt.UTC().Format(time.RFC3339)
		}
		t.add("renewed", renews)
	}
	if s.RequestWaits {
		t.add("request", "waits for its certificate")
	}
	if s.CA != nil {
		t.add("CA", s.CA.Subject)
		t.add("CA valid until", a.until(s.CA.NotAfter))
		if s.CAKeyHere {
			t.add("CA's key", "here: who takes over a process that can read it can sign operators of every host of the CA (docs/remote.md)")
		}
		t.add("CA fingerprint", "SHA256:"+s.CA.Fingerprint)
		t.add("revoked", plural(s.Revoked, "certificate", "certificates")+", list "+s.RevokedNumber)
	}
	return t
}
