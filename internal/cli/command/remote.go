package command

import (
	"path/filepath"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/pki"
)

// RemoteURL is the agent of another machine that commands go to; empty: this host's.
// A flag wins over the environment, also --socket over MVM_REMOTE.
func (a *App) RemoteURL() (string, error) {
	switch {
	case a.remote != "" && a.socket != "":
		return "", mvm.Errorf(mvm.KindInvalid, "--remote and --socket name two agents").WithFix("give one of them")
	case a.remote == "" && a.socket == "":
		return a.Getenv("MVM_REMOTE"), nil
	}
	return a.remote, nil
}

// IsRemote reports whether commands go to the agent of another machine.
func (a *App) IsRemote() bool {
	url, err := a.RemoteURL()
	return err != nil || url != "" // an error is told when the agent is asked
}

// dialRemote returns a client for the agent at the URL, with the certificate of the
// folder that was named, or of the user's own.
func (a *App) dialRemote(url string) (*api.Client, error) {
	dir := a.certs
	if dir == "" {
		dir = a.Getenv("MVM_CERTS")
	}
	if dir == "" {
		dir = filepath.Join(a.Getenv("HOME"), ".config", "mvm")
	}
	conf, err := pki.ClientTLS(dir)
	if err != nil {
		return nil, err
	}
	return api.DialRemote(url, conf)
}

// Dial returns a client for the agent that commands go to, and where it is. It does not
// connect yet.
func (a *App) Dial() (c *api.Client, where string, err error) {
	url, err := a.RemoteURL()
	if err != nil {
		return nil, "", err
	}
	if url != "" {
		c, err := a.dialRemote(url)
		return c, url, err
	}
	cfg, err := a.Settings(nil, true)
	if err != nil {
		return nil, "", err
	}
	return api.Dial(cfg.Socket), cfg.Socket, nil
}
