// Package command is what every command of mvm has: its streams, its way to the agent, how
// it prints, asks and ends.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mvm"
	"mvm/internal/api"
	"mvm/internal/display"
	"mvm/internal/manifest"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Env is all that the command line takes from its process, so that tests can give
// it another.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Now            func() time.Time
	Version        api.Version
	// ServeAgent runs an agent until the context ends.
	ServeAgent func(ctx context.Context, opts ServeOptions) error
	// ServeHostd does what needs root for an agent, until the context ends.
	ServeHostd func(ctx context.Context, cfg manifest.AgentConfig) error
	// CheckProduction says what there is to say of each condition of production mode.
	CheckProduction func(manifest.AgentConfig) []mvm.Finding
	// CheckHostd asks whether mvm hostd answers; nil: nobody can.
	CheckHostd func(context.Context, manifest.AgentConfig) error
	// CheckWalls says which walls around VMMs are missing; nil: nobody can.
	CheckWalls func(context.Context, manifest.AgentConfig) ([]mvm.Finding, error)
	// CheckFlakes says whether an agent of the config could build Nix flakes; nil: nobody can.
	CheckFlakes func(context.Context, manifest.AgentConfig) mvm.Finding
	// VerifyAudit follows the audit log in a copy of a state file.
	VerifyAudit func(file, keyFile, expect string) (mvm.AuditReport, error)
}

// ServeOptions say how an agent works.
type ServeOptions struct {
	manifest.AgentConfig
	// GuestBinary is the static mvm-guest for built-in images; empty: looked for.
	GuestBinary string
	// Version is that of this binary.
	Version api.Version
}

// App is one run of the command line.
type App struct {
	Env         // its Stdout and Stderr are out and errs
	Out, Errs   *display.Writer
	socket      string
	dataDir     string
	Config      string // of the agent: flag of agent serve
	remote      string // URL of another machine's agent
	certs       string // folder with the certificate for it
	noAutostart bool
	verbose     bool
	Color       bool
	SaidHeld    bool // see sayHeld
}

// NewApp makes a run of the command line, whose flags globalFlags adds.
func NewApp(env Env) *App {
	a := &App{Env: env, Out: display.NewWriter(env.Stdout), Errs: display.NewWriter(env.Stderr)}
	a.Stdout, a.Stderr = a.Out, a.Errs
	a.Color = a.wantColor()
	return a
}

const ExitHelp = `
Exit codes:
  0    done
  1    failed
  2    wrong usage or invalid input
  3    not found
  4    refused: quota, policy, wrong state, or already exists
  5    agent not reachable, shutting down or overloaded
  6    incomplete: an instance changed by hand is left alone for a while
  10   a dry run would change something
  130  interrupted
`

func (a *App) GlobalFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&a.dataDir, "data-dir", "", "`FOLDER` with the agent's state (MVM_DATA_DIR; default /var/lib/mvm)")
	f.StringVar(&a.socket, "socket", "", "`PATH` of the agent's socket (MVM_SOCKET; default /run/mvm/agent.sock)")
	f.StringVar(&a.remote, "remote", "", "`URL` of an agent on another machine, https://HOST:PORT (MVM_REMOTE; default: this host's agent)")
	f.StringVar(&a.certs, "certs", "", "`FOLDER` with ca.pem, cert.pem and key.pem for --remote (MVM_CERTS; default ~/.config/mvm)")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "print the request id, to find the request in the logs of the agent and the guests")
	f.BoolVar(&a.noAutostart, "no-autostart", false, "never start an agent in the background (MVM_NO_AUTOSTART=1)")
}

// Report tells a person of the error.
func Report(w *display.Writer, err error) {
	if err == nil {
		return
	}
	text, fix := TextOf(err)
	if text == "" {
		return
	}
	fmt.Fprintf(w, "mvm: %s\n", indented(text))
	if fix != "" {
		fmt.Fprintf(w, "  fix: %s\n", indented(fix))
	}
	var e *mvm.Error
	if errors.As(err, &e) && e.Request != "" {
		fmt.Fprintf(w, "  request: %s\n", display.Line(e.Request))
	}
}

// indented sets further lines of an error apart from those of mvm, so that what a guest
// says looks like neither a fix nor another error.
func indented(text string) string {
	return strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n    ")
}

// wantColor: only on a terminal, and not when the user says no (no-color.org).
func (a *App) wantColor() bool {
	return a.Getenv("NO_COLOR") == "" && a.Getenv("TERM") != "dumb" && IsTerminal(a.Stdout)
}

func IsTerminal(v any) bool {
	_, ok := Terminal(v)
	return ok
}

// Terminal is the terminal that v reads or writes, if it is one.
func Terminal(v any) (*os.File, bool) {
	if w, ok := v.(*display.Writer); ok {
		v = w.Unwrap()
	}
	f, ok := v.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// WithAgent runs f with a client of the agent.
func (a *App) WithAgent(cmd *cobra.Command, f func(ctx context.Context, c *api.Client) error) error {
	c, err := a.Agent(cmd.Context())
	if err != nil {
		return err
	}
	defer c.Close()
	return f(a.Identified(cmd.Context()), c)
}

// OnPool runs f with a client and the pool that the first argument names.
func (a *App) OnPool(cmd *cobra.Command, arg string, f func(ctx context.Context, c *api.Client, at mvm.Address) error) error {
	addr, err := PoolAddress(cmd, arg)
	if err != nil {
		return err
	}
	return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error { return f(ctx, c, addr) })
}

// PoolAddress reads TENANT/POOL.
func PoolAddress(cmd *cobra.Command, arg string) (mvm.Address, error) {
	addr, err := mvm.ParseAddress(arg)
	if err == nil && (addr.Tenant == "" || addr.Pool == "" || addr.Instance != "" || addr.Key != "") {
		err = Usagef(cmd, "%q does not name a pool; use tenant/pool", arg)
	}
	return addr, err
}
