package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"mvm/internal/owner"
)

// findAgent has the demo use the agent that is there. Without one at its socket, and
// with another agent that has the networks of this host, it is that one: mvm could start
// none beside it.
func (d *demo) findAgent(ctx context.Context) error {
	switch of, err := owner.NetworksOf(); {
	case os.Getenv("MVM_SOCKET") != "" || d.answers(ctx):
		fmt.Fprintln(d.out, "   it runs")
	case err == nil && of.Socket != "" && d.answers(ctx, "--socket", of.Socket):
		fmt.Fprintf(d.out, "   the one of data dir %s has the networks of this host: the demo is its tenant (MVM_SOCKET=%s)\n", of.DataDir, of.Socket)
		if err := os.Setenv("MVM_SOCKET", of.Socket); err != nil {
			return err
		}
		d.shown = "MVM_SOCKET=" + of.Socket + " " + d.mvm
	default:
		fmt.Fprintln(d.out, "   none runs: mvm starts it")
		return nil
	}
	return d.ownTenant(ctx)
}

// answers reports whether an agent is there, without starting one.
func (d *demo) answers(ctx context.Context, flags ...string) bool {
	cmd := exec.CommandContext(ctx, d.mvm, append(flags, "node", "info", "-o", "json")...)
	cmd.Env = append(os.Environ(), "MVM_NO_AUTOSTART=1")
	return cmd.Run() == nil
}

// ownTenant refuses a tenant that is there and that no demo has made.
func (d *demo) ownTenant(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(d.dir, d.tenant+".toml")); err == nil {
		return nil
	}
	if exec.CommandContext(ctx, d.mvm, "tenant", "info", d.tenant).Run() == nil {
		return errors.New("it has a tenant " + d.tenant + " already, which is not of this demo: choose another name with -tenant")
	}
	return nil
}
