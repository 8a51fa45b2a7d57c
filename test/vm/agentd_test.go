package vm_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"mvm/internal/cli"
	serve "mvm/internal/host"
	"mvm/internal/sys"
)

// Files beside an agent's state that its test steers it with.
const (
	killFile   = "kill-at" // the agent kills itself with SIGKILL at the point that is named in it
	pointsFile = "points"  // when it is there, the agent adds every point that it passes
	setFile    = "set"     // by what the agent's clock is to be ahead of the host's; SIGUSR1 says that it is there
	clockFile  = "clock"   // by what it is
)

// beAgent is an agent with a seam.
func beAgent() int {
	o, err := part[serve.Options](envOptions)
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		clock := newAgentClock(os.Getenv(envPlace))
		go clock.follow(ctx)
		o.Clock = clock
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

// agentClock is the host's clock, as if somebody had set it: a time of it has nothing of a clock
// that nobody can set.
type agentClock struct {
	dir  string
	told chan os.Signal

	mu    sync.Mutex
	ahead time.Duration
	set   context.Context // ends when the clock is set
	over  context.CancelFunc
}

func newAgentClock(dir string) *agentClock {
	c := &agentClock{dir: dir, told: make(chan os.Signal, 1), over: func() {}}
	signal.Notify(c.told, syscall.SIGUSR1)
	c.take()
	return c
}

// follow sets the clock whenever it is told to, until ctx ends.
func (c *agentClock) follow(ctx context.Context) {
	for {
		select {
		case <-c.told:
			c.take()
		case <-ctx.Done():
			return
		}
	}
}

// take sets the clock as it is to be set.
func (c *agentClock) take() {
	_ = os.Rename(filepath.Join(c.dir, setFile), filepath.Join(c.dir, clockFile)) // there may be none
	ahead := time.Duration(0)
	if b, err := os.ReadFile(filepath.Join(c.dir, clockFile)); err == nil {
		if ahead, err = time.ParseDuration(string(b)); err != nil {
			panic(err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over()
	c.ahead = ahead
	c.set, c.over = context.WithCancel(context.Background())
}

func (c *agentClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Round(0).Add(c.ahead)
}

func (c *agentClock) Wait(ctx context.Context, poked <-chan struct{}, until time.Time) {
	c.mu.Lock()
	set := c.set
	if !until.IsZero() {
		until = until.Add(-c.ahead)
	}
	c.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(set, cancel)()
	sys.WallClock{}.Wait(ctx, poked, until)
}
