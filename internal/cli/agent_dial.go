package cli

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strconv"
	"time"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/manifest"
)

// defaultConfig is the agent's config file (formats.md section 9).
const defaultConfig = "/etc/mvm/agent.toml"

// settings returns the agent's config as this command line sees it: flags, then
// environment, then the config file, then the defaults. extra are flags beside the
// global ones, by key. A client may lack the right to read the file, and does without.
func (a *app) settings(extra map[string]string, client bool) (manifest.AgentConfig, error) {
	flags := map[string]string{}
	for key, v := range extra {
		flags[key] = v
	}
	for key, v := range map[string]string{"socket": a.socket, "data_dir": a.dataDir} {
		if v == "" {
			continue
		}
		abs, err := filepath.Abs(v)
		if err != nil {
			return manifest.AgentConfig{}, mvm.Errorf(mvm.KindInternal, "find %s: %w", v, err)
		}
		flags[key] = abs
	}
	src := manifest.AgentSources{File: a.config, FileRequired: a.config != "", Flags: flags, Lookup: a.lookup}
	if src.File == "" {
		src.File, src.FileRequired = a.Getenv("MVM_CONFIG"), a.Getenv("MVM_CONFIG") != ""
	}
	if src.File == "" {
		src.File = defaultConfig
	}
	cfg, err := manifest.LoadAgentConfig(src)
	if client && errors.Is(err, fs.ErrPermission) {
		src.File = ""
		cfg, err = manifest.LoadAgentConfig(src)
	}
	return cfg, err
}

func (a *app) lookup(name string) (string, bool) {
	v := a.Getenv(name)
	return v, v != ""
}

func (a *app) mayAutostart() bool {
	off, err := strconv.ParseBool(a.Getenv("MVM_NO_AUTOSTART"))
	return !a.noAutostart && (err != nil || !off)
}

// agent returns a client of an agent that answers, starting this host's when none
// does. The caller closes it.
func (a *app) agent(ctx context.Context) (*api.Client, error) {
	c, where, err := a.dial()
	if err != nil {
		return nil, err
	}
	v, err := c.Version(ctx)
	if mvm.IsKind(err, mvm.KindUnavailable) && a.mayAutostart() && !c.Remote() {
		if err = a.autostart(ctx, c, err); err == nil {
			v, err = c.Version(ctx)
		}
	}
	if err == nil && v.API != api.APIVersion {
		err = mvm.Errorf(mvm.KindUnavailable, "agent at %s speaks version %d of the API, this mvm version %d", where, v.API, api.APIVersion).
			WithFix("restart the agent with this mvm")
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// autostart starts this host's agent, which did not answer because of why.
func (a *app) autostart(ctx context.Context, c *api.Client, why error) error {
	cfg, err := a.settings(nil, true)
	if err != nil {
		return err
	}
	return a.startAgent(ctx, c, cfg, why)
}

// peek returns a client only if an agent answers at once; for what works without.
func (a *app) peek(ctx context.Context) (*api.Client, error) {
	c, _, err := a.dial()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if _, err := c.Version(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}
