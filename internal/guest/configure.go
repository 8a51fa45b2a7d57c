package guest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"mvm"
	"mvm/internal/guest/definition"
	"mvm/internal/guest/workload"
	"mvm/internal/guestproto"
)

// minEntropy is the least that a Configure at boot or wake must bring, in bytes.
const minEntropy = 32

// Identity is what /etc/mvm-config/config.json holds: who this instance is. No
// secrets.
type Identity struct {
	TenantID   string            `json:"tenant_id"`
	PoolID     string            `json:"pool_id"`
	InstanceID string            `json:"instance_id"`
	Role       mvm.Role          `json:"role"`
	Key        string            `json:"key,omitempty"`
	Hostname   string            `json:"hostname"`
	Net        *guestproto.Net   `json:"net,omitempty"`
	Generation int               `json:"secrets_generation"`
	Env        map[string]string `json:"env,omitempty"`
	Gateways   []netip.Addr      `json:"gateways,omitempty"`
}

// configure puts a Configure in force; arrived is when its frame was read. Clock
// and entropy come first, because all that follows may depend on them. The error
// names the first thing that failed; what came before it stays in force, and the
// same Configure can be sent again.
func (a *Agent) configure(ctx context.Context, c guestproto.Configure, arrived time.Time) error {
	if err := validateConfigure(c); err != nil {
		return err
	}
	if c.Generation < a.last.generation {
		return mvm.Errorf(mvm.KindState, "configure: its secrets have generation %d, and %d is in force: it was overtaken", c.Generation, a.last.generation)
	}
	a.last.digest, a.last.generation = nil, c.Generation
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"clock", func() error { return a.configureClock(c, arrived) }},
		{"entropy", func() error { return a.configureEntropy(c) }},
		{"hostname", func() error { return a.configureHostname(c) }},
		{"network", func() error { return a.configureNetwork(c) }},
		{"secrets", func() error { return a.configureSecrets(c) }},
		{"files", func() error { return a.configureFiles(c) }},
		{"integrations", func() error { return a.integrations.configure(c.Integrations, c.Env) }},
		{"services", func() error { return a.configureServices(c) }},
		{"router", func() error { return a.configureRouter(c) }},
	} {
		if err := ctx.Err(); err != nil {
			return mvm.Errorf(mvm.KindCanceled, "configure %s: %w", step.name, err)
		}
		if err := step.do(); err != nil {
			return mvm.Errorf(mvm.KindOf(err), "configure %s: %w", step.name, err)
		}
	}
	a.last.digest = c.Digest
	return nil
}

func validateConfigure(c guestproto.Configure) error {
	switch c.Reason {
	case "boot", "wake":
		if c.UnixNanos <= 0 || len(c.Entropy) < minEntropy {
			return mvm.Errorf(mvm.KindInvalid, "configure: a %s needs the time and %d bytes of entropy", c.Reason, minEntropy)
		}
	case "update":
	default:
		return mvm.Errorf(mvm.KindInvalid, "configure: reason %q is not boot, wake or update", workload.Clip(c.Reason))
	}
	if !c.Role.Valid() {
		return mvm.Errorf(mvm.KindInvalid, "configure: role %q is not known", workload.Clip(string(c.Role)))
	}
	for path := range c.Secrets {
		if err := definition.ValidateSecretPath(path); err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) configureClock(c guestproto.Configure, arrived time.Time) error {
	if c.Reason == "update" {
		return nil
	}
	return a.sys.SetClock(time.Unix(0, c.UnixNanos).Add(time.Since(arrived)))
}

func (a *Agent) configureEntropy(c guestproto.Configure) error {
	if c.Reason == "update" {
		return nil
	}
	return a.sys.AddEntropy(c.Entropy)
}

func (a *Agent) configureHostname(c guestproto.Configure) error {
	if c.Hostname == "" {
		return nil
	}
	return a.sys.SetHostname(c.Hostname)
}

func (a *Agent) configureNetwork(c guestproto.Configure) error {
	if c.Net == nil {
		return nil
	}
	return a.sys.SetNetwork(*c.Net)
}

// applied is what the last Configure put in force, so that a wake, which mostly
// brings the same again, need not look at every file. Guarded by configuring.
type applied struct {
	secrets [sha256.Size]byte
	files   string
	// generation is that of the newest Configure: an older one, given up by the host and
	// still on its way, must not undo it.
	generation int
	digest     []byte // the host's name for the Configure in force, nil while there is none
}

// configureSecrets writes the secrets, unless they are those of last time.
func (a *Agent) configureSecrets(c guestproto.Configure) error {
	sum := digest(c.Secrets)
	if sum == a.last.secrets && exists(a.paths.Secrets) {
		return nil
	}
	if err := a.sys.HoldsSecrets(filepath.Dir(a.paths.Secrets)); err != nil {
		return err
	}
	if err := writeSecrets(a.paths.Secrets, c.Secrets, accessFor(a.serviceUsers())); err != nil {
		return err
	}
	a.last.secrets = sum
	a.settler.changed()
	return nil
}

// digest is a hash of the secrets and their names.
func digest(secrets map[string][]byte) [sha256.Size]byte {
	h := sha256.New()
	for _, path := range slices.Sorted(maps.Keys(secrets)) {
		fmt.Fprintf(h, "%d %s %d ", len(path), path, len(secrets[path]))
		h.Write(secrets[path])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// configureFiles writes config.json and, for a gateway, routes.json, unless they
// would be those of last time.
func (a *Agent) configureFiles(c guestproto.Configure) error {
	id, err := json.MarshalIndent(Identity{TenantID: c.TenantID, PoolID: c.PoolID, InstanceID: c.InstanceID, Role: c.Role,
		Key: c.Key, Hostname: c.Hostname, Net: c.Net, Generation: c.Generation, Env: c.Env, Gateways: c.Gateways}, "", "  ")
	if err != nil {
		return err
	}
	var routes []byte
	if c.Routes != nil {
		if routes, err = json.MarshalIndent(c.Routes, "", "  "); err != nil {
			return err
		}
	}
	idFile, routesFile := filepath.Join(a.paths.Config, "config.json"), filepath.Join(a.paths.Config, "routes.json")
	var integrations []byte
	if len(c.Integrations) > 0 {
		manifest := map[string]any{"integrations": c.Integrations}
		if integrations, err = json.MarshalIndent(manifest, "", "  "); err != nil {
			return err
		}
	}
	integrationsFile := filepath.Join(a.paths.Config, "integrations.json")
	all := string(id) + string(routes) + string(integrations)
	if all == a.last.files && exists(idFile) && exists(routesFile) == (routes != nil) && exists(integrationsFile) == (integrations != nil) {
		return nil
	}
	if err := os.MkdirAll(a.paths.Config, 0o755); err != nil {
		return err
	}
	if err := replaceFile(idFile, append(id, '\n'), 0o644); err != nil {
		return err
	}
	err = errors.Join(presentFile(routesFile, routes), presentFile(integrationsFile, integrations))
	if err == nil {
		a.last.files = all
	}
	return err
}

// presentFile puts the text in the file, or removes the file where there is none.
func presentFile(path string, text []byte) error {
	if text != nil {
		return replaceFile(path, append(text, '\n'), 0o644)
	}
	if err := os.Remove(path); !os.IsNotExist(err) {
		return err
	}
	return nil
}

func (a *Agent) configureServices(c guestproto.Configure) error {
	a.sup.Apply(a.services, c.Env)
	return nil
}

func (a *Agent) configureRouter(c guestproto.Configure) error {
	if c.Role != mvm.RoleGateway {
		return nil
	}
	if a.router == nil {
		return mvm.Errorf(mvm.KindInvalid, "this guest agent has no gateway role")
	}
	if err := a.router.Configure(c); err != nil {
		return err
	}
	return a.flag("gateway-ready", true)
}

// replaceFile puts a new file in the place of whatever is at the path, without
// following a link there. It is for tmpfs and overlays that are gone with the
// machine, so it does not fsync.
func replaceFile(path string, b []byte, perm os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(perm), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}
