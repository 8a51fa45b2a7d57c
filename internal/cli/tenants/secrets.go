package tenants

import (
	"bytes"
	"context"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
)

func (a *app) secretsCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "secrets COMMAND", Short: "A tenant's secrets",
		Args: cobra.ArbitraryArgs, RunE: command.Group}
	cmd.AddCommand(a.secretsSetCmd(), a.secretsListCmd(), a.secretsRotateCmd())
	return cmd
}

const secretsSetHelp = `Add, replace and remove secrets, and deliver them to the running guests. In a guest, the
secret anthropic_key is the file /run/secrets/anthropic_key. The command reads a value from
a file, or from stdin with - or @-, and removes the last newline. It takes no value from
the command line, where other users could see it.

A secret has at most 64 KiB, and all secrets of a tenant together have at most 128 KiB. If a
secret to remove does not exist, the command fails and changes nothing.
`

func (a *app) secretsSetCmd() *cobra.Command {
	var remove []string
	cmd := &cobra.Command{Use: "set TENANT [NAME=@FILE | NAME=-]... [--remove NAME]...", Short: "Add, replace and remove secrets",
		Long: secretsSetHelp, Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.CompleteTenants,
		Example: "  mvm tenant secrets set alice anthropic_key=@./anthropic.key\n  pass show bot | mvm tenant secrets set alice telegram_token=-"}
	cmd.Flags().StringSliceVar(&remove, "remove", nil, "`NAME` of a secret to remove")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		values, err := a.readSecrets(cmd, args[1:], remove)
		if err != nil {
			return err
		}
		return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
			n, err := c.SetSecrets(ctx, args[0], values)
			if err != nil {
				return err
			}
			a.Say("secrets of %s are now generation %d", args[0], n)
			a.sayHeld(ctx, c)
			return nil
		})
	}
	return cmd
}

// readSecrets reads what the arguments name; a nil value removes.
func (a *app) readSecrets(cmd *cobra.Command, args, remove []string) (map[string][]byte, error) {
	values := map[string][]byte{}
	stdin := false
	for _, arg := range args {
		name, from, _ := strings.Cut(arg, "=")
		if from == "@-" { // as curl and others have it
			from = "-"
		}
		if err := mvm.ValidateSecretName(name); err != nil {
			return nil, err
		}
		if _, twice := values[name]; twice {
			return nil, command.Usagef(cmd, "secret %s is given twice", name)
		}
		var err error
		switch path, isFile := strings.CutPrefix(from, "@"); {
		case isFile && path != "":
			values[name], err = readSecretFile(name, path)
		case from == "-" && !stdin:
			stdin = true
			values[name], err = readBounded("secret "+name+" from stdin", a.Stdin)
		case from == "-":
			return nil, command.Usagef(cmd, "only one secret can come from stdin")
		default: // the argument may hold the secret: don't print it
			return nil, mvm.Errorf(mvm.KindInvalid, "secret %s: the value must come from a file or stdin", name).WithFix("use %s=@FILE or %s=-", name, name)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, name := range remove {
		if _, twice := values[name]; twice {
			return nil, command.Usagef(cmd, "secret %s is given twice", name)
		}
		values[name] = nil
	}
	if len(values) == 0 {
		return nil, command.Usagef(cmd, "no secret was given")
	}
	return values, mvm.ValidateSecrets(values)
}

func readSecretFile(name, path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInvalid, "secret %s: %w", name, err)
	}
	defer func() { _ = f.Close() }()
	if st, err := f.Stat(); err != nil || st.IsDir() {
		return nil, mvm.Errorf(mvm.KindInvalid, "secret %s: %s is not a file", name, path)
	}
	return readBounded("secret "+name+" from "+path, f)
}

func readBounded(what string, r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, mvm.MaxSecretBytes+1))
	switch {
	case err != nil:
		return nil, mvm.Errorf(mvm.KindInvalid, "read %s: %w", what, err)
	case len(b) > mvm.MaxSecretBytes:
		return nil, mvm.Errorf(mvm.KindInvalid, "read %s: more than %d bytes", what, mvm.MaxSecretBytes)
	}
	b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if len(b) == 0 {
		return nil, mvm.Errorf(mvm.KindInvalid, "read %s: it is empty", what)
	}
	return b, nil
}

func (a *app) secretsListCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "list TENANT [-o FORMAT]", Aliases: []string{"ls"}, Short: "List a tenant's secrets: name, generation, age and size; never the value",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompleteTenants}
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
			t, _, err := c.Tenant(ctx, args[0])
			if err != nil {
				return err
			}
			v := struct {
				Generation int              `json:"generation"`
				Names      []string         `json:"names"`
				Secrets    []mvm.SecretInfo `json:"secrets"`
			}{t.SecretsGeneration, append([]string{}, t.SecretNames...), secretsOf(t)}
			return a.Print(*out, v, func() command.Table { return a.secretsTable(v.Secrets) })
		})
	}
	return cmd
}

// secretsOf tells of every secret of the tenant, of some only the name.
func secretsOf(t mvm.Tenant) []mvm.SecretInfo {
	out := []mvm.SecretInfo{}
	for _, name := range t.SecretNames {
		s := mvm.SecretInfo{Name: name}
		if n := slices.IndexFunc(t.Secrets, func(k mvm.SecretInfo) bool { return k.Name == name }); n >= 0 {
			s = t.Secrets[n]
		}
		out = append(out, s)
	}
	return out
}

// secretsTable says when each secret got its present value.
func (a *app) secretsTable(all []mvm.SecretInfo) command.Table {
	t := command.Table{Head: []string{"SECRET", "GENERATION", "SET", "SIZE"}, None: "no secrets"}
	for _, s := range all {
		gen, when, bytes := "-", "-", "-"
		if s.Generation > 0 {
			gen, when = strconv.Itoa(s.Generation), a.Ago(s.SetAt)
		}
		if s.Bytes > 0 {
			bytes = strconv.Itoa(s.Bytes)
		}
		t.Add(s.Name, gen, when, bytes)
	}
	return t
}

func (a *app) secretsRotateCmd() *cobra.Command {
	return &cobra.Command{Use: "rotate TENANT", Short: "Increase the generation of the secrets and deliver them again",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.CompleteTenants,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
				n, err := c.RotateSecrets(ctx, args[0])
				if err != nil {
					return err
				}
				a.Say("secrets of %s are now generation %d", args[0], n)
				return nil
			})
		}}
}
