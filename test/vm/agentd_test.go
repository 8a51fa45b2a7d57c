package vm_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"mvm/internal/cli"
	serve "mvm/internal/host"
)

// Files beside an agent's state that its test steers it with.
const (
	killFile   = "kill-at" // the agent kills itself with SIGKILL at the point that is named in it
	pointsFile = "points"  // when it is there, the agent adds every point that it passes
)

// beAgent is an agent with a seam.
func beAgent() int {
	o, err := part[serve.Options](envOptions)
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err = serve.Serve(ctx, o, seam(os.Getenv(envPlace)))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return cli.ExitCode(err)
}

// beHostd is what has the rights of an agent that has none.
func beHostd() int {
	o, err := part[serve.Options](envOptions)
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err = serve.ServeHostd(ctx, o.AgentConfig)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func seam(dir string) serve.Seam {
	return func(point string) error {
		if b, err := os.ReadFile(filepath.Join(dir, killFile)); err == nil && string(b) == point {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		f, err := os.OpenFile(filepath.Join(dir, pointsFile), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return nil //nolint:nilerr // nobody wants to know
		}
		defer f.Close()
		_, err = fmt.Fprintln(f, point)
		return err
	}
}
