package tenants

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"mvm"
	"mvm/internal/cli/command"
	"mvm/internal/display"
	"mvm/internal/trust"
)

const desiredHelp = `Sign the desired state of a host, and check signatures. These commands need no agent: sign
on the machine that has the key, and push the signed file to the host.
`

func (a *app) desiredCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "desired COMMAND", Short: "Sign desired states, and check signatures", Long: desiredHelp, Args: cobra.ArbitraryArgs, RunE: command.Group}
	cmd.AddCommand(command.Local(a.desiredKeygenCmd(), a.desiredSignCmd(), a.desiredVerifyCmd())...)
	return cmd
}

const keygenHelp = `Create a key for signing desired states. The command writes the private key to FILE,
readable only by you, and the public key to FILE.pub; neither file may exist. A host trusts
the key once FILE.pub is in its folder of trusted keys (/etc/mvm/trusted_keys).
`

func (a *app) desiredKeygenCmd() *cobra.Command {
	return &cobra.Command{Use: "keygen FILE", Short: "Create a key for signing desired states", Long: keygenHelp, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			k, err := trust.Generate(args[0])
			if err != nil {
				return err
			}
			a.Say("key %s is in %s; copy %s to /etc/mvm/trusted_keys on the hosts", k.ID, args[0], k.File)
			return nil
		}}
}

// readDocument reads a file, or stdin for "-", of at most limit bytes.
func (a *app) readDocument(path string, limit int) ([]byte, error) {
	r, name := a.Stdin, "stdin"
	if path != "-" {
		name = path
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, mvm.Errorf(mvm.KindInvalid, "read %s: there is no such file", path)
		}
		if err != nil {
			return nil, mvm.Errorf(mvm.KindInvalid, "read %w", err)
		}
		defer func() { _ = f.Close() }()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	switch {
	case err != nil:
		return nil, mvm.Errorf(mvm.KindInvalid, "read %s: %w", name, err)
	case len(b) > limit:
		return nil, mvm.Errorf(mvm.KindInvalid, "read %s: it has more than %d bytes", name, limit)
	}
	return b, nil
}

// readState reads a desired state, in YAML or JSON, as JSON. What is in it is for others
// to judge; what is JSON already is not touched, since it may be signed.
func (a *app) readState(path string, limit int) ([]byte, error) {
	b, err := a.readDocument(path, limit)
	if err != nil || json.Valid(b) {
		return b, err
	}
	what := "neither JSON nor YAML"
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) {
		what, err = "no JSON", json.Unmarshal(b, new(any))
	} else {
		b, err = yamlToJSON(b)
	}
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInvalid, "read desired state %s: it is %s: %w", path, what, err)
	}
	return b, nil
}

// yamlToJSON translates one document that has fields.
func yamlToJSON(b []byte) ([]byte, error) {
	var v any
	dec := yaml.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(&v); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if _, isMap := v.(map[string]any); !isMap {
		return nil, errors.New("it has no fields")
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("it has more than one document")
	}
	return json.Marshal(v)
}

// writeDocument writes a file whole, or to stdout for "-".
func (a *app) writeDocument(path string, data []byte) error {
	var err error
	if path == "-" {
		_, err = a.Stdout.Write(display.JSON(data))
	} else {
		err = os.WriteFile(path, data, 0o644)
	}
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "write output: %w", err)
	}
	return nil
}
