package instances

import (
	"context"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/muesli/cancelreader"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
	"mvm/internal/display"
)

const execHelp = `Run a command in an instance, and exit with the command's exit code. If you interrupt mvm,
or if it can't read all of stdin, the command in the instance is killed.

INSTANCE may be tenant/pool if the pool has exactly one instance. The instance must be
running. --wake first wakes a sleeping instance; a stopped instance is never started.

With --tty the command has the terminal to itself. Without it, a terminal shows colours, and
other control characters as escapes such as \x1b. Output to a pipe or file is unchanged.
`

type execOptions struct {
	stdin, tty bool
	wake       bool
	user, dir  string
	env        []string
}

func (a *app) execCmd() *cobra.Command {
	var o execOptions
	cmd := &cobra.Command{Use: "exec [-i] [-t] INSTANCE -- COMMAND [ARG...]", Short: "Run a command in an instance",
		Long: execHelp,
		Args: cobra.MinimumNArgs(2), ValidArgsFunction: a.CompleteInstances,
		Example: "  mvm exec -i -t alice/workers@bob -- sh\n  tar c . | mvm exec -i alice/workers@bob -- tar x -C /data"}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&o.stdin, "stdin", "i", false, "connect the command to this stdin")
	f.BoolVarP(&o.tty, "tty", "t", false, "give the command a terminal")
	f.BoolVar(&o.wake, "wake", false, "wake the instance first if it sleeps, or resume it if it is warm")
	f.StringVarP(&o.user, "user", "u", "", "`USER` to run as (default root)")
	f.StringVarP(&o.dir, "workdir", "w", "", "`FOLDER` to run in")
	f.StringArrayVarP(&o.env, "env", "e", nil, "set the variable `NAME=VALUE` (repeat)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.runExec(cmd, args, o) }
	return cmd
}

func (a *app) runExec(cmd *cobra.Command, args []string, o execOptions) error {
	argv := args[1:]
	if argv[0] == "--" {
		argv = argv[1:]
	}
	if len(argv) == 0 {
		return command.Usagef(cmd, "no command given")
	}
	spec := mvm.ExecSpec{Argv: argv, Env: o.env, Dir: o.dir, User: o.user, TTY: o.tty}
	streams := mvm.ExecIO{Stdout: a.Out.Unwrap(), Stderr: a.Errs.Unwrap()}
	if !o.tty {
		defer showSafely(&streams.Stdout)()
		defer showSafely(&streams.Stderr)()
	}
	code := 0
	err := a.onOne(cmd, args[0], func(ctx context.Context, c *api.Client, at mvm.Address) (err error) {
		if o.wake {
			if err := a.awake(ctx, c, at, "mvm exec"); err != nil {
				return err
			}
		}
		if o.stdin {
			in, end := cancelable(a.Stdin)
			defer end()
			streams.Stdin = in
		}
		if o.tty {
			restore, err := a.rawTerminal(cmd, &spec, &streams)
			if err != nil {
				return err
			}
			defer restore()
		}
		code, err = c.Exec(ctx, at, spec, streams)
		return err
	})
	if err == nil && code != 0 {
		return command.ExitStatus(code)
	}
	return err
}

// awake has an instance run that sleeps, is warm, or is on its way there.
func (a *app) awake(ctx context.Context, c *api.Client, at mvm.Address, why string) error {
	i, err := c.Instance(ctx, at)
	if err != nil {
		return err
	}
	to := i.State
	if i.Op != nil {
		to = i.Op.Kind.Leads(to)
	}
	if to != mvm.StateSleeping && to != mvm.StateWarm {
		return nil
	}
	p := a.NewProgress()
	defer p.Done()
	_, err = c.Operate(ctx, i.Address(), mvm.OpRequest{Op: mvm.OpWake, Why: why}, p.Show)
	if err != nil && ctx.Err() == nil { // a service that fails keeps nobody from looking why
		if now, ierr := c.Instance(ctx, i.Address()); ierr == nil && now.State == mvm.StateRunning && now.Op == nil {
			return nil
		}
	}
	return err
}

// cancelable makes reads of a terminal, pipe or socket end when end is called. What the
// kernel can't wait for (a regular file, /dev/null) never blocks for long and is read as
// it is.
func cancelable(stdin io.Reader) (in io.Reader, end func()) {
	r, err := cancelreader.NewReader(stdin)
	if err != nil {
		return stdin, func() {}
	}
	return r, func() { r.Cancel(); _ = r.Close() }
}

// showSafely has a command's output that goes to a terminal keep its colours, and show
// everything else that a terminal would act on. The returned function ends that.
func showSafely(w *io.Writer) (end func()) {
	if !command.IsTerminal(*w) {
		return func() {}
	}
	safe := display.NewColourWriter(*w)
	*w = safe
	return func() { _ = safe.Flush() }
}

// rawTerminal hands the terminal to the command: raw, with its size and changes of
// it. The returned function gives it back.
func (a *app) rawTerminal(cmd *cobra.Command, spec *mvm.ExecSpec, streams *mvm.ExecIO) (func(), error) {
	in, ok := a.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return nil, command.Usagef(cmd, "--tty needs a terminal at stdin")
	}
	fd := int(in.Fd())
	if cols, rows, err := term.GetSize(fd); err == nil {
		spec.Rows, spec.Cols = uint16(rows), uint16(cols)
	}
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "make terminal raw: %w", err)
	}
	sizes, stop := watchSize(fd)
	streams.Resize = sizes
	return func() {
		stop()
		_ = term.Restore(fd, old)
	}, nil
}

// watchSize sends the terminal's size whenever it changes.
func watchSize(fd int) (<-chan [2]uint16, func()) {
	sizes := make(chan [2]uint16, 1)
	sigs := make(chan os.Signal, 1)
	quit := make(chan struct{})
	signal.Notify(sigs, syscall.SIGWINCH)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-quit:
				return
			case <-sigs:
			}
			cols, rows, err := term.GetSize(fd)
			if err != nil {
				continue
			}
			select {
			case <-sizes:
			default:
			}
			sizes <- [2]uint16{uint16(rows), uint16(cols)}
		}
	})
	return sizes, func() {
		signal.Stop(sigs)
		close(quit)
		wg.Wait()
	}
}
