// Command mvm is the command line and the agent of mvm.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"mvm/internal/cli"
	"mvm/internal/host"
)

func main() {
	host.RunChild()
	os.Exit(run())
}

func serve(ctx context.Context, o cli.ServeOptions) error {
	return host.Serve(ctx, host.Options{AgentConfig: o.AgentConfig, GuestBinary: o.GuestBinary, Version: o.Version}, nil)
}

// run wires the process to the command line. The first SIGINT or SIGTERM cancels
// what is under way; the second ends the process.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	return cli.Run(ctx, cli.Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.Getenv, Now: time.Now,
		Version: version(), ServeAgent: serve, ServeHostd: host.ServeHostd, VerifyAudit: host.VerifyAudit, CheckProduction: host.CheckProduction, CheckHostd: host.CheckHostd, CheckWalls: host.CheckWalls, CheckFlakes: host.CheckFlakes,
	}, os.Args[1:])
}
