package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/manifest"
	"mvm/internal/sys"
)

const (
	startTimeout = 2 * time.Minute // the first start on a host may probe the VMM
	startPoll    = 50 * time.Millisecond
	maxAgentLog  = 16 << 20 // of an earlier agent, before it is set aside
)

// startAgent starts `mvm agent serve` in the background and waits until it answers.
// Of several command lines that find no agent one starts it and the others wait.
func (a *App) startAgent(ctx context.Context, c *api.Client, cfg manifest.AgentConfig, why error) error {
	if os.Geteuid() != 0 {
		return why
	}
	if cfg.Hostd.Socket != "" { // it is to have no rights, and whoever starts it here would give it all
		return mvm.Errorf(mvm.KindUnavailable, "agent not reachable at %s", cfg.Socket).WithFix("start it: systemctl start mvm-agent")
	}
	data := cfg.DataDir
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := sys.MkdirAll(data, 0o711); err != nil {
		return mvm.Errorf(mvm.KindInternal, "make data folder: %w", err)
	}
	lock, err := waitLock(ctx, filepath.Join(data, "agent-start.lock"))
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	if _, err := c.Version(ctx); err == nil {
		return nil
	}
	logPath := filepath.Join(data, "agent.log")
	a.Say("no agent answers at %s: starting one (log: %s)", cfg.Socket, logPath)
	pid, old, err := a.spawnAgent(cfg, logPath)
	if err != nil {
		return mvm.Errorf(mvm.KindUnavailable, "start agent: %w", err)
	}
	return waitAgent(ctx, c, pid, logPath, old)
}

// waitLock takes the lock on the file, waiting for whoever has it.
func waitLock(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "open lock: %w", err)
	}
	err = Poll(ctx, func() (bool, error) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		_ = f.Close()
		return nil, mvm.Errorf(WaitKind(err), "wait for another mvm to start the agent: %w", err)
	}
	return f, nil
}

// spawnAgent starts the agent in a session of its own, so that it outlives this
// process and its terminal. It returns the agent's pid and the size of the log before.
func (a *App) spawnAgent(cfg manifest.AgentConfig, logPath string) (pid int, old int64, err error) {
	if st, err := os.Stat(logPath); err == nil && st.Size() > maxAgentLog {
		if err := os.Rename(logPath, logPath+".1"); err != nil {
			return 0, 0, err
		}
	}
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = log.Close() }()
	if st, err := log.Stat(); err == nil {
		old = st.Size()
	}
	args := []string{"agent", "serve", "--data-dir", cfg.DataDir, "--socket", cfg.Socket}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = "mvm"
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	pid = cmd.Process.Pid // Release forgets it
	return pid, old, cmd.Process.Release()
}

// waitAgent waits until the agent answers, or ends, and then says why it did.
func waitAgent(ctx context.Context, c *api.Client, pid int, logPath string, old int64) error {
	err := Poll(ctx, func() (bool, error) {
		_, err := c.Version(ctx)
		if err == nil || !mvm.IsKind(err, mvm.KindUnavailable) {
			return err == nil, err
		}
		var ws syscall.WaitStatus
		if got, _ := syscall.Wait4(pid, &ws, syscall.WNOHANG, nil); got == pid {
			return false, mvm.Errorf(mvm.KindUnavailable, "agent ended at once (exit code %d):\n%s", ws.ExitStatus(), tail(logPath, old)).
				WithFix("see %s, or `mvm doctor`", logPath)
		}
		return false, nil
	})
	if err == nil || mvm.IsKind(err, mvm.KindUnavailable) {
		return err
	}
	return mvm.Errorf(WaitKind(err), "wait for the agent to answer: %w", err).WithFix("see %s", logPath)
}

// Poll asks until it is so, fails, or the context ends.
func Poll(ctx context.Context, ask func() (bool, error)) error {
	t := time.NewTicker(startPoll)
	defer t.Stop()
	for {
		if ok, err := ask(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

func WaitKind(err error) mvm.Kind {
	switch {
	case errors.Is(err, context.Canceled):
		return mvm.KindCanceled
	case errors.Is(err, context.DeadlineExceeded):
		return mvm.KindTimeout
	}
	return mvm.KindOf(err)
}

// tail returns the last lines of the log from the offset on, indented.
func tail(path string, from int64) string {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Sprintf("    (%v)", err)
	}
	defer func() { _ = f.Close() }()
	if st, err := f.Stat(); err == nil {
		_, _ = f.Seek(max(from, st.Size()-4096), io.SeekStart)
	}
	b, _ := io.ReadAll(io.LimitReader(f, 4096))
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return "    " + strings.Join(lines[max(0, len(lines)-5):], "\n    ")
}
