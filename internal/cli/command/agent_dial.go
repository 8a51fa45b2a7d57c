package command

import (
	"cmp"
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

// DefaultConfig is the agent's config file (formats.md section 9).
const DefaultConfig = "/etc/mvm/agent.toml"

// Settings returns the agent's config as this command line sees it: flags, then
// environment, then the config file, then the defaults. extra are flags beside the
// global ones, by key. A client may lack the right to read the file, and does without.
func (a *App) Settings(extra map[string]string, client bool) (manifest.AgentConfig, error) {
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
	src := manifest.AgentSources{File: a.Config, FileRequired: a.Config != "", Flags: flags, Lookup: a.lookup}
	if src.File == "" {
		src.File, src.FileRequired = a.configFile(), a.Getenv("MVM_CONFIG") != ""
	}
	cfg, err := manifest.LoadAgentConfig(src)
	if client && errors.Is(err, fs.ErrPermission) {
		src.File = ""
		cfg, err = manifest.LoadAgentConfig(src)
	}
	return cfg, err
}

// configFile is the agent's config file, unless a flag names another.
func (a *App) configFile() string { return cmp.Or(a.Getenv("MVM_CONFIG"), DefaultConfig) }

// TemplateDir is the folder of this host's templates, which is beside the config file.
func (a *App) TemplateDir() string { return filepath.Join(filepath.Dir(a.configFile()), "templates") }

func (a *App) lookup(name string) (string, bool) {
	v := a.Getenv(name)
	return v, v != ""
}

func (a *App) mayAutostart() bool {
	off, err := strconv.ParseBool(a.Getenv("MVM_NO_AUTOSTART"))
	return !a.noAutostart && (err != nil || !off)
}

// Agent returns a client of an agent that answers, starting this host's when none
// does. The caller closes it.
func (a *App) Agent(ctx context.Context) (*api.Client, error) {
	c, where, err := a.Dial()
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
func (a *App) autostart(ctx context.Context, c *api.Client, why error) error {
	cfg, err := a.Settings(nil, true)
	if err != nil {
		return err
	}
	return a.startAgent(ctx, c, cfg, why)
}

// Peek returns a client only if an agent answers at once; for what works without.
func (a *App) Peek(ctx context.Context) (*api.Client, error) {
	c, _, err := a.Dial()
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
