package hosts

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/cli/command"
	"mvm/internal/pki"
	"mvm/internal/sys"
)

// clientDays is how long a client's certificate lives where nothing else is said.
const clientDays = 90

func daysFlag(cmd *cobra.Command) *int {
	return cmd.Flags().Int("days", clientDays, "days that a client's certificate is valid")
}

func checkDays(cmd *cobra.Command, days int) error {
	if days < 1 || days > 3650 {
		return command.Usagef(cmd, "--days %d is not in 1..3650", days)
	}
	return nil
}

const certsClientHelp = `Create a certificate for a client on another machine. The command writes ca.pem, cert.pem
and key.pem to a new folder. Copy the folder to the client in a safe way (it contains a
private key), and use it with --remote and --certs.

Without --tenant the client is an operator and may do everything. With --tenant it can see
and change only that tenant.
`

func (a *app) certsClientCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "client NAME [flags]", Short: "Create a client's certificate", Long: certsClientHelp, Args: cobra.ExactArgs(1),
		Example: "  mvm agent certs client laptop\n  mvm agent certs client web --tenant alice --days 30 --out alice-web"}
	open, days := a.certsFlags(cmd), daysFlag(cmd)
	tenant := cmd.Flags().String("tenant", "", "`TENANT` that the client is restricted to (default: an operator)")
	out := cmd.Flags().String("out", "", "`FOLDER` to create (default: the client's name)")
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
		a.Say("certificate of %s in %s, valid until %s", info.Identity, *out, a.until(info.NotAfter))
		a.Say("use it with: mvm --remote https://HOST:PORT --certs %s ps", *out)
		return nil
	}
	return cmd
}

// makeBundle makes the folder, which must not be there.
func makeBundle(dir string) error {
	err := sys.Mkdir(dir, 0o700)
	switch {
	case errors.Is(err, os.ErrExist):
		return mvm.Errorf(mvm.KindExists, "%s is there already", dir).WithFix("choose another folder with --out")
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

const certsRequestHelp = `Create a key on this machine and a request for its certificate, to be signed on the host
with the CA's key. The key never leaves this machine.

Without --client the request is for this node and is printed. Install the signed
certificate with ` + "`mvm agent certs rotate --cert`" + `. With --client the command writes key.pem
and request.pem to a new folder. Put the signed certificate there as cert.pem, and the
CA's ca.pem next to it.
`

func (a *app) certsRequestCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "request [flags]", Short: "Create a key and a request for its certificate", Long: certsRequestHelp, Args: cobra.NoArgs}
	open, hosts := a.certsFlags(cmd), hostFlag(cmd)
	client := cmd.Flags().String("client", "", "`NAME` of a client to request for, instead of this node")
	tenant := cmd.Flags().String("tenant", "", "with --client: `TENANT` that the client is restricted to (default: an operator)")
	out := cmd.Flags().String("out", "", "with --client: `FOLDER` to create (default: the client's name)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := open()
		if err != nil {
			return err
		}
		switch {
		case *client == "" && (*tenant != "" || *out != ""):
			return command.Usagef(cmd, "--tenant and --out need --client")
		case *client != "" && len(*hosts) > 0:
			return command.Usagef(cmd, "--host does not go with --client: only a node has host names")
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
		a.Say("sign this request on the CA's host with `mvm agent certs sign`")
		return a.WriteText(csr)
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
	a.Say("sign %s on the CA's host with `mvm agent certs sign`; put the certificate next to it as %s, with the CA's %s", filepath.Join(out, "request.pem"), pki.ClientCert, pki.ClientCA)
	return nil
}

const certsSignHelp = `Sign a certificate request (FILE, or - for stdin) and print the certificate. The command
shows who the request is for and asks first: anyone can write any name into a request.
`

func (a *app) certsSignCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "sign FILE [--days N] [--yes]", Short: "Sign a request of a node or client", Long: certsSignHelp, Args: cobra.ExactArgs(1)}
	open, days, yes := a.certsFlags(cmd), daysFlag(cmd), command.YesFlag(cmd)
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
		life, who := time.Duration(*days)*24*time.Hour, "an operator, who may do everything"
		switch {
		case r.Identity.Node != "":
			life, who = c.life(), "a node with the names "+strings.Join(r.Hosts, " ")
		case r.Identity.Tenant != "":
			who = "a client of tenant " + r.Identity.Tenant
		}
		if err := a.Confirm(cmd, *yes, "The request is for "+r.Identity.URI()+": "+who+"."); err != nil {
			return err
		}
		cert, info, err := c.dir.Sign(r, life, a.Now())
		if err != nil {
			return err
		}
		a.Say("certificate of %s signed, valid until %s", info.Identity, a.until(info.NotAfter))
		return a.WriteText(cert)
	}
	return cmd
}
