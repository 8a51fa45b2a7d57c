package workload

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"mvm"
)

// checkTimeout bounds one readiness check.
const checkTimeout = 10 * time.Second

// How long a service runs before it is ready: one without a check, and any after a run of
// it failed that its readiness does not make up for.
const (
	provenFirst = time.Second
	provenAfter = 5 * time.Second
)

// prove waits until the service, which was started then, has run for long enough that it is
// ready.
func (u *unit) prove(ctx context.Context, began time.Time) error {
	need, fails := time.Duration(0), u.fails()
	switch {
	case fails >= mvm.CrashLoop, fails > 0 && u.def.Ready == nil:
		need = provenAfter
	case u.def.Ready == nil:
		need = provenFirst
	}
	if !SleepFor(ctx, need-time.Since(began)) {
		return ctx.Err()
	}
	return nil
}

// awaitReady checks until the service is ready, its time is over, or ctx ends.
func (u *unit) awaitReady(ctx context.Context) error {
	r := u.def.Ready
	if r == nil && u.def.Once() {
		<-ctx.Done() // it is ready when it is done
	}
	if r == nil {
		return u.prove(ctx, time.Now())
	}
	began := time.Now()
	interval, timeout := defaultReadyInterval, defaultReadyTimeout
	if r.IntervalMS > 0 {
		interval = time.Duration(r.IntervalMS) * time.Millisecond
	}
	if r.TimeoutSecs > 0 {
		timeout = time.Duration(r.TimeoutSecs) * time.Second
	}
	running := ctx
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var last error // that is not just the end of the time
	for {
		err := u.check(ctx, *r)
		if err == nil {
			return u.prove(running, began)
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return fmt.Errorf("not ready within %s: %w", timeout, last)
		}
	}
}

func (u *unit) check(ctx context.Context, r Ready) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	switch {
	case r.HTTP != "":
		_, err := HTTPGet(ctx, r.HTTP)
		return err
	case r.TCP != "":
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", r.TCP)
		if err != nil {
			return err
		}
		return conn.Close()
	case r.File != "":
		_, err := os.Stat(r.File)
		return err
	}
	return u.checkExec(ctx, r.Exec)
}

// checkExec runs a check as the service's user; its output is dropped.
func (u *unit) checkExec(ctx context.Context, argv []string) error {
	_, err := u.runAs(ctx, argv)
	return err
}

// runAs runs a command to its end as the service's user, with its environment, and
// returns the first bytes of its output.
func (u *unit) runAs(ctx context.Context, argv []string) (output string, err error) {
	user, err := LookupUser(u.sup.cfg.Etc, u.def.User)
	if err != nil {
		return "", err
	}
	env, err := u.environ(user)
	if err != nil {
		return "", err
	}
	code, output, err := u.sup.cfg.Processes.Run(ctx, Command{Argv: argv, Env: env, Dir: u.def.Dir, User: user})
	if err == nil && code != 0 {
		err = fmt.Errorf("%s exited with code %d", argv[0], code)
	}
	return output, err
}

// maxOutput bounds what run keeps of a command's output.
const maxOutput = 4 << 10

// Run runs a command with no input to its end, and returns its exit code and the
// first bytes of its output. When ctx ends before, the command's group is killed.
func (p *Processes) Run(ctx context.Context, c Command) (code int, output string, err error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, "", err
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return 0, "", err
	}
	defer r.Close()
	c.Files, c.KillGroup = [3]*os.File{null, w, w}, true
	proc, err := p.Start(c)
	w.Close()
	if err != nil {
		return 0, "", err
	}
	out := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(r, maxOutput))
		_, _ = io.Copy(io.Discard, r)
		out <- b
	}()
	select {
	case <-proc.Done():
	case <-ctx.Done():
		err = ctx.Err()
		proc.Signal(unix.SIGKILL)
		<-proc.Done()
	}
	_ = r.SetReadDeadline(time.Now().Add(time.Second))
	return proc.Code(), string(<-out), err
}

// SleepFor waits, and reports false where ctx ended before.
func SleepFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
