// Command demo shows mvm's main job on this host, with times: it makes a tenant from
// the openclaw template, chats with its assistant through the gateway VM, puts the
// worker to sleep, and wakes it with the next message. A message to the assistant's Telegram
// bot wakes it too, and so does a reminder that was set there. A stand-in of Telegram's Bot API,
// started here, has the bot. The demo runs what a user would run, bin/mvm, and prints it.
//
// With ANTHROPIC_API_KEY set the assistant uses that provider; else a stub of an
// OpenAI-compatible API, started here on the tenant's address of the host, answers
// in the model's place. The usual MVM_* variables choose another data dir. Where another
// agent has this host's networks, the demo's tenant is made there.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	d := &demo{began: time.Now(), out: os.Stdout}
	flag.StringVar(&d.mvm, "mvm", "bin/mvm", "the mvm program")
	flag.StringVar(&d.dir, "dir", filepath.Join(".cache", "demo"), "folder for the demo's config and secrets")
	flag.StringVar(&d.tenant, "tenant", "alice", "name of the tenant")
	flag.IntVar(&d.stubPort, "stub-port", 18088, "port of the stub model on the tenant's address of the host")
	flag.IntVar(&d.botPort, "bot-port", 18089, "port of the Bot API's stand-in there")
	flag.BoolVar(&d.chats, "bot", true, "also have a message to the assistant's Telegram bot wake it, and a reminder")
	flag.Parse()
	d.shown = d.mvm
	if err := errors.Join(d.run(ctx), d.stop()); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// step is one thing that the demo shows.
type step struct {
	title string
	do    func(context.Context) error
}

// run goes through the demo's steps.
func (d *demo) run(ctx context.Context) error {
	steps := []step{
		{"the agent of this host", d.findAgent},
		{"an assistant from a template", d.makeTenant},
		{"a chat message, answered through the gateway VM", d.firstChat},
		{"the worker is put to sleep: no process, no memory", d.sleep},
		{"the next message wakes it", d.secondChat},
		{"the same OpenClaw process answered", d.sameProcess},
	}
	if d.chats {
		steps = append(steps, step{"it sleeps again, and a message to its Telegram bot wakes it", d.messageWakes},
			step{"so does a reminder that was set by chat", d.reminderWakes})
	}
	for _, s := range steps {
		fmt.Fprintf(d.out, "\n== %s\n", s.title)
		began := time.Now()
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.title, err)
		}
		fmt.Fprintf(d.out, "   (%s)\n", time.Since(began).Round(time.Millisecond))
	}
	d.goodbye()
	return nil
}

// errDifferent says that the demo's point does not hold.
var errDifferent = errors.New("another OpenClaw process answered after the wake: the worker was booted again")
