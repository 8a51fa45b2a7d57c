package host

import (
	"context"
	"os"
	"time"

	"mvm"
	"mvm/internal/declare"
	"mvm/internal/desired"
	"mvm/internal/driver/vmproc"
	"mvm/internal/hostd"
	"mvm/internal/manifest"
	"mvm/internal/production"
	"mvm/internal/secrets"
	"mvm/internal/trust"
)

// stateTrust is which desired states the host believes: those that a key in the
// folder of trusted keys signed, and outside production unsigned ones too.
func stateTrust(c manifest.TrustConfig) declare.Trust {
	return declare.Trust{SignedOnly: c.Production, Keys: func() (desired.Verifier, error) {
		keys, err := trust.Load(c.TrustedKeys)
		return trust.Verifier(keys), err
	}}
}

// keySource is where the host's master key is from; env is MVM_MASTER_KEY.
func keySource(c manifest.AgentConfig, env string) secrets.Source {
	return secrets.Source{File: c.KeyFile, FileGiven: c.Origin("key_file") != "default", DataDir: c.DataDir,
		Credential: c.Trust.KeyCredential, CredentialDir: os.Getenv("CREDENTIALS_DIRECTORY"), Env: env}
}

// fit is nil outside production mode, and where the host is fit for it.
func fit(c manifest.AgentConfig, key secrets.Source) error {
	if !c.Trust.Production {
		return nil
	}
	return production.Ready(production.Host{Config: c, Key: key, UID: os.Geteuid(), Now: time.Now()})
}

// CheckHostd asks whether the config's mvm hostd answers.
func CheckHostd(ctx context.Context, c manifest.AgentConfig) error {
	return hostd.NewClient(c.Hostd.Socket).Hello(ctx)
}

// CheckWalls says which walls are missing around the VMMs that mvm hostd would start, or this
// process where there is none.
func CheckWalls(ctx context.Context, c manifest.AgentConfig) ([]mvm.Finding, error) {
	if c.Hostd.Socket != "" {
		return hostd.NewClient(c.Hostd.Socket).VMMs("qemu").Walls(ctx)
	}
	return vmproc.New(vmproc.Options{Jail: walls(c)}).Walls(ctx)
}

// CheckProduction says what there is to say of each condition of production mode, for
// an agent that this user would start in this environment.
func CheckProduction(c manifest.AgentConfig) []mvm.Finding {
	key := keySource(c, os.Getenv("MVM_MASTER_KEY"))
	return production.Check(production.Host{Config: c, Key: key, UID: os.Geteuid(), Now: time.Now()})
}
