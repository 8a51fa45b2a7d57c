package hosts

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/cli/command"
)

func (a *app) nodeCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "node COMMAND", Short: "The host: its agent, load and disk use", Args: cobra.ArbitraryArgs, RunE: command.Group}
	cmd.AddCommand(
		show(a, "info", "Show the host, the agent and the VMM", (*api.Client).NodeInfo, a.nodeInfoTable),
		show(a, "stats", "Count the tenants and instances on the host, and show its memory", (*api.Client).NodeStats, nodeStatsTable),
		show(a, "disk", "Show how much disk space mvm uses", (*api.Client).NodeDisk, nodeDiskTable),
		a.nodeFsckCmd(), a.nodeGCCmd())
	return cmd
}

// show makes a command that asks for one thing and prints it.
func show[T any](a *app, name, short string, ask func(*api.Client, context.Context) (T, error), tab func(T) command.Table) *cobra.Command {
	cmd := &cobra.Command{Use: name + " [-o FORMAT]", Short: short, Args: cobra.NoArgs}
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
			v, err := ask(c, ctx)
			if err != nil {
				return err
			}
			return a.Print(*out, v, func() command.Table { return tab(v) })
		})
	}
	return cmd
}

func (a *app) nodeInfoTable(n mvm.NodeInfo) command.Table {
	var t command.Table
	t.Add("node", n.NodeID)
	t.Add("agent", fmt.Sprintf("%s, pid %d, up %s", command.Dash(n.Version), n.PID, a.Ago(n.Started)))
	t.Add("data", n.DataDir)
	if n.APIAddress != "" {
		t.Add("remote API", n.APIAddress)
	}
	t.Add("driver", strings.TrimSpace(n.Driver+" "+n.VMM))
	t.Add("accelerator", n.Accelerator)
	if n.Why != "" {
		t.Add("why", n.Why)
	}
	for _, m := range n.Missing {
		t.Add("missing wall", m.What)
	}
	t.Add("host", fmt.Sprintf("%s, %s memory", command.Plural(n.CPUs, "cpu", "cpus"), command.Size(int64(n.MemMiB)<<20)))
	if h := n.Held; h != nil {
		how := ""
		if h.Signed {
			how = ", signed"
		}
		t.Add("kept at", fmt.Sprintf("desired state %s of %s, %s ago%s", h.Digest, h.By, a.Ago(h.At), how))
	}
	return t
}

func nodeStatsTable(n mvm.NodeStats) command.Table {
	var t command.Table
	t.Add("tenants", strconv.Itoa(n.Tenants))
	for _, s := range []mvm.State{mvm.StateRunning, mvm.StateWarm, mvm.StateSleeping, mvm.StateStopped, mvm.StateReady, mvm.StateCreated} {
		if n.Instances[s] > 0 || slices.Contains([]mvm.State{mvm.StateRunning, mvm.StateWarm, mvm.StateSleeping}, s) {
			t.Add(string(s), strconv.Itoa(n.Instances[s]))
		}
	}
	t.Add("free memory", command.Size(int64(n.FreeMemMiB)<<20))
	t.Add("ready to wake", fmt.Sprintf("%d of the sleeping, %s memory", n.Ready, command.Size(n.ReadyBytes)))
	t.Add("agent", fmt.Sprintf("%s memory, %d goroutines, %d open files", command.Size(n.AgentRSS), n.Goroutines, n.OpenFiles))
	return t
}

func nodeDiskTable(n mvm.NodeDisk) command.Table {
	var t command.Table
	t.Add("images", command.Size(n.Images))
	t.Add("sleepers", command.Size(n.Sleepers))
	t.Add("data disks", command.Size(n.DataDisks))
	t.Add("set aside", command.Size(n.SetAside))
	t.Add("logs", command.Size(n.Logs))
	t.Add("other", command.Size(n.Other))
	t.Add("free", command.Size(n.Free))
	return t
}

const fsckHelp = `Check that each file in the data directory belongs to a record and that each record has its
files: folders of instances, data disks, snapshots with all their parts, and images. Exit
with 1 if something is wrong.

The command can run at any time. It does not check an instance while an operation works on
it, and says so; operations that begin meanwhile wait for a moment. It never changes a
record. If a file of a record is lost or damaged, the finding says what to do.
`

func (a *app) nodeFsckCmd() *cobra.Command {
	var how mvm.NodeCheck
	cmd := &cobra.Command{Use: "fsck [--repair] [--read-data] [-o FORMAT]", Short: "Check the files of the host against its records", Long: fsckHelp, Args: cobra.NoArgs}
	cmd.Flags().BoolVar(&how.Repair, "repair", false, "remove files that no record names")
	cmd.Flags().BoolVar(&how.ReadData, "read-data", false, "also read and verify all images and the memory of sleeping guests")
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.check(cmd, *out, func(ctx context.Context, c *api.Client, show func(mvm.Progress)) ([]mvm.Finding, error) {
			return c.NodeCheck(ctx, how, show)
		})
	}
	return cmd
}

func (a *app) nodeGCCmd() *cobra.Command {
	return &cobra.Command{Use: "gc", Short: "Remove unused images and expired set-aside snapshots", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
				n, err := c.NodeGC(ctx)
				if err != nil {
					return err
				}
				a.Say("%s freed", command.Size(n))
				return nil
			})
		}}
}

func (a *app) netCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "net COMMAND", Short: "The tenants' networks", Args: cobra.ArbitraryArgs, RunE: command.Group}
	cmd.AddCommand(a.netVerifyCmd())
	return cmd
}

func (a *app) netVerifyCmd() *cobra.Command {
	var live bool
	cmd := &cobra.Command{Use: "verify [--live] [-o FORMAT]", Short: "Check that tenants are isolated; exit with 1 if something is wrong", Args: cobra.NoArgs}
	cmd.Flags().BoolVar(&live, "live", false, "also try to connect out of each running guest in every forbidden way")
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.check(cmd, *out, func(ctx context.Context, c *api.Client, show func(mvm.Progress)) ([]mvm.Finding, error) {
			return c.NetVerify(ctx, live, show)
		})
	}
	return cmd
}

// check shows the progress of a check of the agent's, and prints what it finds.
func (a *app) check(cmd *cobra.Command, out command.Format, ask func(context.Context, *api.Client, func(mvm.Progress)) ([]mvm.Finding, error)) error {
	return a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
		p := a.NewProgress()
		defer p.Done()
		found, err := ask(ctx, c, p.Show)
		if err != nil {
			return err
		}
		p.Done()
		return a.printFindings(out, found)
	})
}

// printFindings prints them and fails when one is an error.
func (a *app) printFindings(out command.Format, found []mvm.Finding) error {
	bad := 0
	for _, f := range found {
		if f.Severity == "error" {
			bad++
		}
	}
	err := a.Print(out, append([]mvm.Finding{}, found...), func() command.Table {
		t := command.Table{None: "nothing is wrong"}
		for _, f := range found {
			t.Add(f.Severity, strings.TrimSpace(f.What+" "+f.Where))
			if f.Fix != "" {
				t.Add("", "fix: "+f.Fix)
			}
		}
		return t
	})
	if err == nil && bad > 0 {
		err = mvm.Errorf(mvm.KindInternal, "%s", command.Plural(bad, "problem found", "problems found"))
	}
	return err
}
