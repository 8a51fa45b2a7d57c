package fake

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"mvm/internal/driver"
	"mvm/internal/guestproto"
)

// command is one command that the guest runs: what it reads and where it writes.
type command struct {
	m     *machine
	spec  guestproto.Exec
	stdin <-chan []byte // closed at the end of the input
	kill  <-chan int    // a signal
	out   func(stderr bool, b []byte) error
}

// run runs the command and returns its exit code.
func (c command) run() int {
	args := c.spec.Argv[1:]
	switch c.spec.Argv[0] {
	case "true":
		return 0
	case "false":
		return 1
	case "echo":
		return c.print(strings.Join(args, " ") + "\n")
	case "env":
		return c.env()
	case "cat":
		return c.cat(args)
	case "tee":
		return c.tee(args)
	case "rm":
		return c.rm(args)
	case "sleep":
		return c.sleep(args)
	case "hostname":
		return c.cat([]string{"/etc/hostname"})
	case "date":
		return c.print(strconv.FormatInt(c.clock().Unix(), 10) + "\n")
	case "count":
		return c.count()
	case "logger":
		return c.logger(strings.Join(args, " "))
	case "poweroff":
		c.m.end(driver.Exit{Guest: true, Detail: "guest powered off"}, false)
		return 0
	}
	return c.fail(127, "%s: command not found", c.spec.Argv[0])
}

func (c command) print(s string) int {
	if !c.m.running() || c.out(false, []byte(s)) != nil {
		return 1
	}
	return 0
}

func (c command) fail(code int, format string, args ...any) int {
	_ = c.out(true, fmt.Appendf(nil, format+"\n", args...))
	return code
}

func (c command) clock() (t time.Time) {
	_ = c.m.withGuest(func(g *guestState) (change, error) {
		t = g.now()
		return unchanged, nil
	})
	return t
}

func (c command) env() int {
	env := slices.Clone(c.spec.Env)
	_ = c.m.withGuest(func(g *guestState) (change, error) {
		if g.Config != nil {
			for k, v := range g.Config.Env {
				env = append(env, k+"="+v)
			}
		}
		return unchanged, nil
	})
	slices.Sort(env)
	return c.print(strings.Join(env, "\n") + "\n")
}

// cat prints files, or its input.
func (c command) cat(paths []string) int {
	if len(paths) == 0 {
		for {
			b, code := c.next()
			if b == nil {
				return code
			}
			if !c.m.running() || c.out(false, b) != nil {
				return 1
			}
		}
	}
	for _, p := range paths {
		var b []byte
		var ok bool
		if err := c.m.withGuest(func(*guestState) (change, error) {
			b, ok = c.m.read(p)
			return unchanged, nil
		}); err != nil {
			return 1
		}
		if !ok {
			return c.fail(1, "cat: %s: no such file", p)
		}
		if c.out(false, b) != nil {
			return 1
		}
	}
	return 0
}

// tee writes its input to files and its output.
func (c command) tee(paths []string) int {
	var all []byte
	for {
		b, code := c.next()
		if code != 0 {
			return code
		}
		if b == nil {
			break
		}
		if all = append(all, b...); len(all) > maxGuestBytes {
			return c.fail(1, "tee: no space left")
		}
		if c.out(false, b) != nil {
			return 1
		}
	}
	for _, p := range paths {
		if err := c.m.withGuest(func(*guestState) (change, error) { return c.m.write(p, all) }); err != nil {
			return c.fail(1, "tee: %v", err)
		}
	}
	return 0
}

func (c command) rm(paths []string) int {
	for _, p := range paths {
		if c.m.withGuest(func(*guestState) (change, error) {
			files, where := c.m.file(p)
			delete(files, p)
			return where, nil
		}) != nil {
			return 1
		}
	}
	return 0
}

func (c command) sleep(args []string) int {
	if len(args) != 1 {
		return c.fail(1, "sleep: one number of seconds")
	}
	secs, err := strconv.ParseFloat(args[0], 64)
	if err != nil {
		return c.fail(1, "sleep: %s is no number", args[0])
	}
	t := time.NewTimer(time.Duration(secs * float64(time.Second)))
	defer t.Stop()
	select {
	case <-t.C:
		return 0
	case s := <-c.kill:
		return 128 + s
	case <-c.m.done:
		return 1
	}
}

// count counts up in the guest's memory.
func (c command) count() int {
	n := 0
	if c.m.withGuest(func(g *guestState) (change, error) {
		g.Counter++
		n = g.Counter
		return inMemory, nil
	}) != nil {
		return 1
	}
	return c.print(strconv.Itoa(n) + "\n")
}

func (c command) logger(text string) int {
	if c.m.withGuest(func(g *guestState) (change, error) {
		g.log("stdout", text)
		return inMemory, nil
	}) != nil {
		return 1
	}
	c.m.wake()
	return 0
}
