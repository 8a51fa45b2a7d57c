package hosts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
)

// agentStatus is what there is to say of an agent.
type agentStatus struct {
	mvm.NodeInfo
	Socket    string            `json:"socket,omitempty"` // empty: the agent is elsewhere
	Unit      string            `json:"unit,omitempty"`   // of systemd, that runs it
	Tenants   int               `json:"tenants"`
	Instances map[mvm.State]int `json:"instances"`
}

func (a *app) agentStatusCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "status [-o FORMAT]", Short: "Show the agent: pid, uptime, version, folders, tenants and instances",
		Long: "Show the agent: pid, uptime, version, folders, tenants and instances. The command never\nstarts an agent; if none answers, it exits with 5.\n", Args: cobra.NoArgs}
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, where, err := a.Dial()
		if err != nil {
			return err
		}
		defer c.Close()
		s, err := a.askStatus(a.Identified(cmd.Context()), c, where)
		if err != nil {
			return err
		}
		return a.Print(*out, s, func() command.Table { return a.agentStatusTable(s) })
	}
	return cmd
}

func (a *app) askStatus(ctx context.Context, c *api.Client, where string) (s agentStatus, err error) {
	if s.NodeInfo, err = c.NodeInfo(ctx); err != nil {
		return s, err
	}
	stats, err := c.NodeStats(ctx)
	s.Tenants, s.Instances = stats.Tenants, stats.Instances
	if !c.Remote() {
		s.Socket, s.Unit = where, unitOf(s.PID)
	}
	return s, err
}

func (a *app) agentStatusTable(s agentStatus) command.Table {
	var t command.Table
	t.Add("agent", fmt.Sprintf("%s, pid %d, up %s", command.Dash(s.Version), s.PID, a.Ago(s.Started)))
	t.Add("node", s.NodeID)
	t.Add("data", s.DataDir)
	if s.Socket != "" {
		t.Add("socket", s.Socket)
	}
	if s.Unit != "" {
		t.Add("systemd", s.Unit)
	}
	t.Add("driver", strings.TrimSpace(s.Driver+" "+s.VMM))
	t.Add("tenants", fmt.Sprint(s.Tenants))
	t.Add("instances", instancesText(s.Instances))
	return t
}

// instancesText counts instances by their states.
func instancesText(n map[mvm.State]int) string {
	var parts []string
	for _, s := range command.StateNames() {
		if k := n[mvm.State(s)]; k > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", k, s))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// unitOf is the systemd unit that runs the process, "" where none does: a process that a
// user has started is in a scope or in the unit of the user's own manager.
func unitOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		_, cgroup, ok := strings.Cut(strings.TrimSpace(line), "::")
		if _, v1, is := strings.Cut(line, ":name=systemd:"); is {
			cgroup, ok = strings.TrimSpace(v1), true
		}
		if ok && strings.HasPrefix(cgroup, "/system.slice/") && strings.HasPrefix(path.Base(cgroup), "mvm") && strings.HasSuffix(cgroup, ".service") {
			return path.Base(cgroup)
		}
	}
	return ""
}

const agentStopHelp = `Stop the agent of this host and wait until its process has ended. Operations get 10
seconds to finish; the next agent continues those that were interrupted. Running instances
keep running and sleeping ones stay asleep, but nothing wakes them until an agent runs.

If systemd runs the agent, stop it with systemctl: systemd would start it again. The
command succeeds if no agent runs.
`

func (a *app) agentStopCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "stop [--timeout SECONDS]", Short: "Stop the agent of this host and wait for its end", Long: agentStopHelp, Args: cobra.NoArgs}
	timeout := cmd.Flags().Int("timeout", 60, "`SECONDS` to wait for the agent's end")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *timeout < 1 || *timeout > 86400 {
			return command.Usagef(cmd, "--timeout %d is not in 1..86400", *timeout)
		}
		if a.IsRemote() {
			return command.Usagef(cmd, "agent stop is for the agent of this host; run it there")
		}
		return a.stopAgent(a.Identified(cmd.Context()), time.Duration(*timeout)*time.Second)
	}
	return cmd
}

func (a *app) stopAgent(ctx context.Context, timeout time.Duration) error {
	c, socket, err := a.Dial()
	if err != nil {
		return err
	}
	defer c.Close()
	pid, err := peerOf(socket)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		a.Say("no agent runs at %s", socket)
		return nil
	}
	if err != nil {
		return mvm.Errorf(mvm.KindUnavailable, "find the agent at %s: %w", socket, err).WithFix("run as root or as the agent's user")
	}
	if unit := unitOf(pid); unit != "" {
		return mvm.Errorf(mvm.KindState, "systemd runs the agent (pid %d), as %s", pid, unit).WithFix("stop it with `systemctl stop %s`", unit)
	}
	// The process that is held is the one that serves the socket now: it is asked again
	// once it is held.
	fd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		defer func() { _ = unix.Close(fd) }()
		var now int
		if now, err = peerOf(socket); err == nil && now != pid {
			err = fmt.Errorf("pid %d took the place of %d", now, pid)
		}
	}
	if err == nil {
		err = unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0)
	}
	if err != nil {
		return mvm.Errorf(mvm.KindPolicy, "stop the agent (pid %d): %w", pid, err).WithFix("run as root or as the agent's user")
	}
	a.Say("stopping the agent (pid %d)", pid)
	if err := waitEnd(ctx, fd, timeout); err != nil {
		return mvm.Errorf(command.WaitKind(err), "wait for the end of the agent (pid %d): %w", pid, err).WithFix("see its log; it goes on ending")
	}
	a.Say("the agent has ended; instances go on without it")
	return nil
}

// peerOf is the process that serves the socket, as the kernel knows it.
func peerOf(socket string) (int, error) {
	conn, err := net.DialTimeout("unix", socket, 5*time.Second)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return int(cred.Pid), nil
}

// waitEnd waits until the process has ended.
func waitEnd(ctx context.Context, pidfd int, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return command.Poll(ctx, func() (bool, error) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
		if errors.Is(err, unix.EINTR) {
			return false, nil
		}
		return n > 0, err
	})
}
