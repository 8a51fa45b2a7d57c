package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/pki"
	"mvm/internal/sys"
)

// clientDays is how long a client's certificate lives where nothing else is said.
const clientDays = 90

func daysFlag(cmd *cobra.Command) *int {
	return cmd.Flags().Int("days", clientDays, "days that a client's certificate lives")
}

func checkDays(cmd *cobra.Command, days int) error {
	if days < 1 || days > 3650 {
		return usagef(cmd, "--days %d is not in 1..3650", days)
	}
	return nil
}

const certsClientHelp = `Make a certificate for a client on another machine, in a folder that has all it
needs: ca.pem, cert.pem and key.pem. Take the folder there in a safe way (it has a
private key), and use it with --remote and --certs.

Without --tenant the client is an operator and may do everything. With it, it sees and
changes that tenant only.
`

func (a *app) certsClientCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "client NAME [flags]", Short: "Make a client's certificate", Long: certsClientHelp, Args: cobra.ExactArgs(1),
		Example: "  mvm agent certs client laptop\n  mvm agent certs client web --tenant alice --days 30 --out alice-web"}
	open, days := a.certsFlags(cmd), daysFlag(cmd)
	tenant := cmd.Flags().String("tenant", "", "`TENANT`: the only one that the client may act for")
	out := cmd.Flags().String("out", "", "`FOLDER` to make (default: the client's name)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := open()
		if err == nil {
			err = checkDays(cmd, *days)
		}
		if err != nil {
			return err
		}
		if *out == "" {
			*out = args[0]
		}
		ca, err := c.dir.CA()
		if err != nil {
			return err
		}
		if err := (pki.Identity{Domain: c.cfg.Remote.TrustDomain, Client: args[0], Tenant: *tenant}).Validate(); err != nil {
			return err
		}
		if err := makeBundle(*out); err != nil {
			return err
		}
		cert, key, info, err := c.dir.NewClient(args[0], *tenant, time.Duration(*days)*24*time.Hour, a.Now())
		if err != nil {
			return errors.Join(err, os.Remove(*out))
		}
		if err := writeBundle(*out, map[string][]byte{pki.ClientCA: ca, pki.ClientCert: cert, pki.ClientKey: key}); err != nil {
			return err
		}
		a.say("certificate of %s in %s, valid until %s", info.Identity, *out, a.until(info.NotAfter))
		a.say("use it with: mvm --remote https://HOST:PORT --certs %s ps", *out)
		return nil
	}
	return cmd
}

// makeBundle makes the folder, which must not be there.
func makeBundle(dir string) error {
	err := sys.Mkdir(dir, 0o700)
	switch {
	case errors.Is(err, os.ErrExist):
		return mvm.Errorf(mvm.KindExists, "%s is there already", dir).WithFix("name another with --out")
	case err != nil:
		return mvm.Errorf(mvm.KindInternal, "make folder of certificate: %w", err)
	}
	return nil
}

func writeBundle(dir string, files map[string][]byte) error {
	for name, text := range files {
		if err := sys.CreateFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return mvm.Errorf(mvm.KindInternal, "write certificate: %w", err)
		}
	}
	return nil
}

const certsRequestHelp = `Make a key that stays here, and a request to sign a certificate for it, for a host that
does not have the CA's key.

For this node the request is printed; give the answer to ` + "`mvm agent certs rotate --cert`" + `.
With --client a folder is made with key.pem and request.pem, for a client whose key no
other machine shall ever have; put the answer there as cert.pem, and the CA's ca.pem.
`

func (a *app) certsRequestCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "request [flags]", Short: "Make a key and ask for its certificate", Long: certsRequestHelp, Args: cobra.NoArgs}
	open, hosts := a.certsFlags(cmd), hostFlag(cmd)
	client := cmd.Flags().String("client", "", "`NAME` of the client that it is for, instead of this node")
	tenant := cmd.Flags().String("tenant", "", "`TENANT`: with --client, the only one that it may act for")
	out := cmd.Flags().String("out", "", "`FOLDER` to make, with --client (default: its name)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := open()
		if err != nil {
			return err
		}
		switch {
		case *client == "" && (*tenant != "" || *out != ""):
			return usagef(cmd, "--tenant and --out are for --client")
		case *client != "" && len(*hosts) > 0:
			return usagef(cmd, "--host is for nodes")
		case *client != "":
			return a.requestClient(pki.Identity{Domain: c.cfg.Remote.TrustDomain, Client: *client, Tenant: *tenant}, *out)
		}
		id, err := c.nodeID()
		if err != nil {
			return err
		}
		all := c.hosts(id, *hosts)
		csr, err := c.dir.NewRequest(pki.Identity{Domain: c.cfg.Remote.TrustDomain, Node: id}, all)
		if err != nil {
			return err
		}
		a.say("sign it on the host with the CA's key: `mvm agent certs sign`")
		return a.writeText(csr)
	}
	return cmd
}

func (a *app) requestClient(id pki.Identity, out string) error {
	if out == "" {
		out = id.Client
	}
	csr, key, err := pki.MakeRequest(id, nil)
	if err != nil {
		return err
	}
	if err := makeBundle(out); err != nil {
		return err
	}
	if err := writeBundle(out, map[string][]byte{pki.ClientKey: key, "request.pem": csr}); err != nil {
		return err
	}
	a.say("have %s signed with `mvm agent certs sign`, and put the answer beside it as %s, with the CA's %s", filepath.Join(out, "request.pem"), pki.ClientCert, pki.ClientCA)
	return nil
}

const certsSignHelp = `Sign what a request asks for (FILE, or - for stdin) and print the certificate. What it
asks for is shown first: a request is only what its maker says of himself.
`

func (a *app) certsSignCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "sign FILE [--days N] [--yes]", Short: "Sign a request of a node or client", Long: certsSignHelp, Args: cobra.ExactArgs(1)}
	open, days, yes := a.certsFlags(cmd), daysFlag(cmd), yesFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := open()
		if err == nil {
			err = checkDays(cmd, *days)
		}
		if err != nil {
			return err
		}
		text, err := a.readPEM(args[0])
		if err != nil {
			return err
		}
		r, err := pki.ParseRequest(text)
		if err != nil {
			return err
		}
		life, who := time.Duration(*days)*24*time.Hour, "a client that may do everything"
		switch {
		case r.Identity.Node != "":
			life, who = c.life(), "a node that answers as "+strings.Join(r.Hosts, " ")
		case r.Identity.Tenant != "":
			who = "a client of tenant " + r.Identity.Tenant
		}
		if err := a.confirm(cmd, *yes, "The request is for "+r.Identity.URI()+": "+who+"."); err != nil {
			return err
		}
		cert, info, err := c.dir.Sign(r, life, a.Now())
		if err != nil {
			return err
		}
		a.say("certificate of %s signed, valid until %s", info.Identity, a.until(info.NotAfter))
		return a.writeText(cert)
	}
	return cmd
}
