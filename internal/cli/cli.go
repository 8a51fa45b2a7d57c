// Package cli is the command line of mvm: it parses, asks the agent, prints. Data
// goes to stdout, progress and prose to stderr. Every noun has its files, each verb
// with its options, its command and its run.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/display"
	"mvm/internal/manifest"
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

// app is one run of the command line.
type app struct {
	Env         // its Stdout and Stderr are out and errs
	out, errs   *display.Writer
	socket      string
	dataDir     string
	config      string // of the agent: flag of agent serve
	remote      string // URL of another machine's agent
	certs       string // folder with the certificate for it
	noAutostart bool
	verbose     bool
	color       bool
	saidHeld    bool // see sayHeld
}

const exitHelp = `
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

const rootHelp = `mvm runs each assistant in its own microVM. The microVM sleeps when idle and wakes when a
message arrives.

Names have the form tenant, tenant/pool and tenant/pool/instance. For an instance you can
also give its id alone, or tenant/pool@key for the instance of a user.
`

// New returns the command tree.
func New(env Env) *cobra.Command {
	a := &app{Env: env, out: display.NewWriter(env.Stdout), errs: display.NewWriter(env.Stderr)}
	a.Stdout, a.Stderr = a.out, a.errs
	root := &cobra.Command{
		Use: "mvm", Short: "Run assistants in microVMs that sleep when idle", Long: rootHelp + exitHelp,
		SilenceErrors: true, SilenceUsage: true, Args: cobra.ArbitraryArgs, RunE: group,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetIn(env.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageOf(cmd, flagError(err)) })
	a.globalFlags(root)
	a.color = a.wantColor()
	a.addCommands(root)
	finish(root)
	return root
}

func (a *app) globalFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&a.dataDir, "data-dir", "", "`FOLDER` with the agent's state (MVM_DATA_DIR; default /var/lib/mvm)")
	f.StringVar(&a.socket, "socket", "", "`PATH` of the agent's socket (MVM_SOCKET; default /run/mvm/agent.sock)")
	f.StringVar(&a.remote, "remote", "", "`URL` of an agent on another machine, https://HOST:PORT (MVM_REMOTE; default: this host's agent)")
	f.StringVar(&a.certs, "certs", "", "`FOLDER` with ca.pem, cert.pem and key.pem for --remote (MVM_CERTS; default ~/.config/mvm)")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "print the request id, to find the request in the logs of the agent and the guests")
	f.BoolVar(&a.noAutostart, "no-autostart", false, "never start an agent in the background (MVM_NO_AUTOSTART=1)")
}

func (a *app) addCommands(root *cobra.Command) {
	root.AddGroup(&cobra.Group{ID: "daily", Title: "Daily use:"}, &cobra.Group{ID: "nouns", Title: "Nouns:"},
		&cobra.Group{ID: "host", Title: "The host:"})
	add := func(id string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	add("daily", a.newCmd(), a.deployCmd(), a.connectCmd(), a.psCmd(), a.topCmd(), a.logsCmd(), a.execCmd(), a.cpCmd(), a.whyCmd(), a.eventsCmd())
	add("nouns", a.tenantCmd(), a.poolCmd(), a.instanceCmd())
	add("host", a.agentCmd(), a.hostdCmd(), a.nodeCmd(), a.netCmd(), a.doctorCmd(), a.desiredCmd(), a.completionCmd(root), a.helpCmd(root), a.versionCmd())
}

// Run executes the command line and returns the exit code. Errors go to Stderr.
func Run(ctx context.Context, env Env, args []string) int {
	root := New(env)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && ctx.Err() != nil && !errors.Is(err, interrupted) && mvm.KindOf(err) != mvm.KindCanceled {
		err = mvm.Errorf(mvm.KindCanceled, "interrupted: %w", err)
	}
	report(display.NewWriter(env.Stderr), err)
	return ExitCode(err)
}

// report tells a person of the error.
func report(w *display.Writer, err error) {
	if err == nil {
		return
	}
	text, fix := textOf(err)
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
func (a *app) wantColor() bool {
	return a.Getenv("NO_COLOR") == "" && a.Getenv("TERM") != "dumb" && isTerminal(a.Stdout)
}

func isTerminal(v any) bool {
	_, ok := terminal(v)
	return ok
}

// terminal is the terminal that v reads or writes, if it is one.
func terminal(v any) (*os.File, bool) {
	if w, ok := v.(*display.Writer); ok {
		v = w.Unwrap()
	}
	f, ok := v.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}
