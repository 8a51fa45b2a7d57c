package hosts

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/cli/command"
	"mvm/internal/manifest"
	"mvm/internal/pki"
)

func (a *app) certsCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "certs COMMAND", Short: "Certificates for the remote API", Args: cobra.ArbitraryArgs, RunE: command.Group}
	cmd.AddCommand(command.Local(a.certsInitCmd(), a.certsStatusCmd(), a.certsRotateCmd(), a.certsRequestCmd(), a.certsSignCmd(),
		a.certsClientCmd(), a.certsListCmd(), a.certsRevokeCmd())...)
	return cmd
}

// certs is a folder of certificates as a command finds it.
type certs struct {
	dir *pki.Dir
	cfg manifest.AgentConfig
}

// certsFlags adds the flags by which every command on certificates finds them, and
// returns how. The commands work on files, without an agent, which reads them anew by
// itself.
func (a *app) certsFlags(cmd *cobra.Command) func() (certs, error) {
	cmd.Flags().StringVar(&a.Config, "config", "", "`FILE` with the agent's config (MVM_CONFIG; default "+command.DefaultConfig+")")
	names := []string{"cert-dir", "trust-domain", "node-id"}
	for _, f := range agentFlags() {
		if slices.Contains(names, f[0]) {
			cmd.Flags().String(f[0], "", f[1])
		}
	}
	return func() (certs, error) {
		given := map[string]string{}
		for _, name := range names {
			if cmd.Flags().Changed(name) {
				given[strings.ReplaceAll(name, "-", "_")], _ = cmd.Flags().GetString(name)
			}
		}
		cfg, err := a.Settings(given, false)
		if err != nil {
			return certs{}, err
		}
		if a.Getenv("MVM_REMOTE") != "" {
			a.Say("these are the certificates of this host, in %s; MVM_REMOTE is ignored", cfg.Remote.CertDir)
		}
		return certs{dir: pki.At(cfg.Remote.CertDir, cfg.Remote.TrustDomain), cfg: cfg}, nil
	}
}

// nodeID is the node's id in its certificate: the configured one, or the host's name
// as far as ids allow.
func (c certs) nodeID() (string, error) {
	if c.cfg.NodeID != "" {
		return c.cfg.NodeID, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "", mvm.Errorf(mvm.KindInternal, "read host name: %w", err)
	}
	host, _, _ = strings.Cut(strings.ToLower(host), ".")
	if err := mvm.ValidateName("node", host); err != nil {
		return "", mvm.Errorf(mvm.KindInvalid, "the host name %.80q is not a valid node id: %w", host, err).WithFix("choose one with --node-id")
	}
	return host, nil
}

// hosts are the names and addresses that a node answers under: those that are known,
// and those that the user adds.
func (c certs) hosts(nodeID string, more []string) []string {
	hosts := []string{nodeID, "localhost", "127.0.0.1", "::1"}
	if name, err := os.Hostname(); err == nil {
		if _, _, err := pki.SplitHosts([]string{strings.ToLower(name)}); err == nil {
			hosts = append(hosts, strings.ToLower(name))
		}
	}
	if addr := c.cfg.Remote.ListenAddr(); addr != "" {
		hosts = append(hosts, addr)
	}
	return unique(append(hosts, more...))
}

func unique(words []string) (out []string) {
	for _, w := range words {
		if !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	return out
}

// readPEM reads a file that a user names, "-" for stdin, bounded.
func (a *app) readPEM(path string) ([]byte, error) {
	in := a.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, mvm.Errorf(mvm.KindInvalid, "read %s: %w", path, errors.Unwrap(err))
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, pki.MaxCRL+1))
	if err == nil && len(b) > pki.MaxCRL {
		err = errors.New("it is too large")
	}
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInvalid, "read %s: %w", path, err)
	}
	return b, nil
}

// optionalPEM is readPEM, nil for no path.
func (a *app) optionalPEM(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	return a.readPEM(path)
}

// until says when a certificate ends.
func (a *app) until(t time.Time) string {
	left := t.Sub(a.Now())
	if left <= 0 {
		return t.UTC().Format(time.RFC3339) + " (expired)"
	}
	return fmt.Sprintf("%s (in %s)", t.UTC().Format(time.RFC3339), lasting(left))
}

// lasting is about how long, for people: days, hours or minutes.
func lasting(d time.Duration) string {
	about := func(unit time.Duration) int { return int(d.Round(unit) / unit) }
	switch {
	case d >= 48*time.Hour:
		return command.Plural(about(24*time.Hour), "day", "days")
	case d >= 2*time.Hour:
		return command.Plural(about(time.Hour), "hour", "hours")
	}
	return command.Plural(about(time.Minute), "minute", "minutes")
}

func certTable(t *command.Table, a *app, c pki.CertInfo) {
	t.Add("identity", c.Identity)
	t.Add("subject", c.Subject)
	if len(c.Hosts) > 0 {
		t.Add("hosts", strings.Join(c.Hosts, " "))
	}
	t.Add("valid until", a.until(c.NotAfter))
	t.Add("serial", c.Serial)
	t.Add("fingerprint", "SHA256:"+c.Fingerprint)
}
