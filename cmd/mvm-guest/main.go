// Command mvm-guest is the guest agent. As PID 1 it boots the machine first; run
// any other way it is an ordinary service of a system that has booted by itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mvm/internal/guest"
	"mvm/internal/guest/linux"
	"mvm/internal/guest/workload"
)

func main() {
	if os.Getpid() == 1 {
		os.Exit(runInit())
	}
	os.Exit(runService())
}

// machine is what both ways of running share.
type machine struct {
	cfg     config
	init    bool
	log     guest.Log
	journal *workload.Journal
	procs   *workload.Processes
	console io.Writer
}

func newMachine(cfg config, init bool) *machine {
	journal := workload.NewJournal()
	return &machine{cfg: cfg, init: init, journal: journal, log: guest.NewLog(journal, os.Stderr),
		procs: workload.NewProcesses(init), console: os.Stderr}
}

// runInit is PID 1. It must not return while the machine is up, so whatever goes
// wrong is told on the console and ends in a power-off, which the host sees.
func runInit() int {
	m := newMachine(defaultConfig(), true)
	sys := &linux.System{Init: true}
	err := m.boot()
	if err == nil {
		ctx, cancel := context.WithCancel(context.Background())
		reaped := make(chan struct{})
		go func() {
			defer close(reaped)
			m.procs.Reap(ctx)
		}()
		err = m.serve(ctx, sys)
		cancel()
		<-reaped
	}
	if err != nil {
		m.log.Error("the guest can't go on", "error", err)
		time.Sleep(time.Second) // until the console has it
	}
	m.log.Error("power off", "error", sys.PowerOff())
	return 1
}

// boot gets the machine to where services can run.
func (m *machine) boot() error {
	if len(os.Args) != 2 || os.Args[1] != linux.RootStage {
		if err := linux.Boot(m.log.Logger); err != nil {
			return err
		}
	}
	if err := linux.MountData(m.log.Logger); err != nil {
		return err
	}
	port, err := linux.WaitPort()
	if err != nil && !linux.HasVsock() {
		return errors.Join(linux.NoChannel(), err)
	}
	m.cfg.port = port
	return nil
}

// runService is an ordinary process, until a signal or a Shutdown.
func runService() int {
	cfg, err := parseConfig(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return 2 // told by the flags
	}
	m := newMachine(cfg, false)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	sys := &linux.System{PowerOffCommand: cfg.powerOff, Processes: m.procs}
	if err := m.serve(ctx, sys); err != nil {
		fmt.Fprintln(os.Stderr, "mvm-guest:", err)
		return 1
	}
	return 0
}

// serve answers the host until ctx ends, the channel fails or the host has the
// machine shut down.
func (m *machine) serve(ctx context.Context, sys *linux.System) error {
	channel, err := openChannel(m.cfg)
	if err != nil {
		return err
	}
	defer func() {
		if err := channel.close(); err != nil {
			m.log.Warn("close channel", "error", err)
		}
	}()
	router := newRouter(m.log.Logger, channel.host, m.cfg.paths.Data)
	agent, err := guest.New(guest.Options{System: sys, Processes: m.procs, Journal: m.journal, Log: m.log,
		Paths: m.cfg.paths, Console: m.console, Router: router, Host: channel.host, Channels: router.chats.Status, Inbox: router.shelf.Answer,
		CheckChannels: router.chats.Check})
	if err != nil {
		return err
	}
	router.changed.Store(new(agent.ChannelsChanged))
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	var serving sync.WaitGroup
	serving.Go(func() { served <- channel.serve(ctx, agent) })
	m.log.Info("waiting for the host", "channel", channel.name)
	grace, shutdown := defaultGrace, false
	select {
	case grace = <-agent.Shutdown():
		shutdown = true
		m.log.Info("shutting down", "grace", grace)
	case err = <-served:
	case <-ctx.Done():
	}
	graceCtx, cancelGrace := context.WithTimeout(context.Background(), grace)
	defer cancelGrace()
	if closeErr := agent.Close(graceCtx); closeErr != nil {
		m.log.Error("stop", "error", closeErr)
	}
	cancel()
	serving.Wait()
	if shutdown && !m.init {
		err = errors.Join(err, sys.PowerOff())
	}
	return err
}

// defaultGrace is what services get when the agent ends without a Shutdown.
const defaultGrace = 10 * time.Second
