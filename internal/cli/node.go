package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
)

func (a *app) nodeCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "node COMMAND", Short: "The host: its agent, load and disk use", Args: cobra.ArbitraryArgs, RunE: group}
	cmd.AddCommand(
		show(a, "info", "Show the host, the agent and the VMM", (*api.Client).NodeInfo, a.nodeInfoTable),
		show(a, "stats", "Count the tenants and instances on the host, and show free memory", (*api.Client).NodeStats, nodeStatsTable),
		show(a, "disk", "Show how much disk space mvm uses", (*api.Client).NodeDisk, nodeDiskTable),
		a.nodeGCCmd())
	return cmd
}

// show makes a command that asks for one thing and prints it.
func show[T any](a *app, name, short string, ask func(*api.Client, context.Context) (T, error), tab func(T) table) *cobra.Command {
	cmd := &cobra.Command{Use: name + " [-o FORMAT]", Short: short, Args: cobra.NoArgs}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.withAgent(cmd, func(ctx context.Context, c *api.Client) error {
			v, err := ask(c, ctx)
			if err != nil {
				return err
			}
			return a.print(*out, v, func() table { return tab(v) })
		})
	}
	return cmd
}

func (a *app) nodeInfoTable(n mvm.NodeInfo) table {
	var t table
	t.add("node", n.NodeID)
	t.add("agent", fmt.Sprintf("%s, pid %d, up %s", dash(n.Version), n.PID, a.ago(n.Started)))
	t.add("data", n.DataDir)
	if n.APIAddress != "" {
		t.add("remote API", n.APIAddress)
	}
	t.add("driver", strings.TrimSpace(n.Driver+" "+n.VMM))
	t.add("accelerator", n.Accelerator)
	if n.Why != "" {
		t.add("why", n.Why)
	}
	t.add("host", fmt.Sprintf("%s, %s memory", plural(n.CPUs, "cpu", "cpus"), size(int64(n.MemMiB)<<20)))
	if h := n.Held; h != nil {
		how := ""
		if h.Signed {
			how = ", signed"
		}
		t.add("kept at", fmt.Sprintf("desired state %s of %s, %s ago%s", h.Digest, h.By, a.ago(h.At), how))
	}
	return t
}

func nodeStatsTable(n mvm.NodeStats) table {
	var t table
	t.add("tenants", strconv.Itoa(n.Tenants))
	for _, s := range []mvm.State{mvm.StateRunning, mvm.StateWarm, mvm.StateSleeping, mvm.StateStopped, mvm.StateReady, mvm.StateCreated} {
		if n.Instances[s] > 0 || slices.Contains([]mvm.State{mvm.StateRunning, mvm.StateWarm, mvm.StateSleeping}, s) {
			t.add(string(s), strconv.Itoa(n.Instances[s]))
		}
	}
	t.add("free memory", size(int64(n.FreeMemMiB)<<20))
	t.add("agent", fmt.Sprintf("%s memory, %d goroutines, %d open files", size(n.AgentRSS), n.Goroutines, n.OpenFiles))
	return t
}

func nodeDiskTable(n mvm.NodeDisk) table {
	var t table
	t.add("images", size(n.Images))
	t.add("sleepers", size(n.Sleepers))
	t.add("data disks", size(n.DataDisks))
	t.add("set aside", size(n.SetAside))
	t.add("free", size(n.Free))
	return t
}

func (a *app) nodeGCCmd() *cobra.Command {
	return &cobra.Command{Use: "gc", Short: "Remove unused images and expired set-aside snapshots", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withAgent(cmd, func(ctx context.Context, c *api.Client) error {
				n, err := c.NodeGC(ctx)
				if err != nil {
					return err
				}
				a.say("%s freed", size(n))
				return nil
			})
		}}
}

func (a *app) netCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "net COMMAND", Short: "The tenants' networks", Args: cobra.ArbitraryArgs, RunE: group}
	cmd.AddCommand(a.netVerifyCmd())
	return cmd
}

func (a *app) netVerifyCmd() *cobra.Command {
	var live bool
	cmd := &cobra.Command{Use: "verify [--live] [-o FORMAT]", Short: "Check that tenants are isolated; exit with 1 if something is wrong", Args: cobra.NoArgs}
	cmd.Flags().BoolVar(&live, "live", false, "also try to connect out of each running guest in every forbidden way")
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.withAgent(cmd, func(ctx context.Context, c *api.Client) error {
			p := a.newProgress()
			defer p.done()
			found, err := c.NetVerify(ctx, live, p.show)
			if err != nil {
				return err
			}
			p.done()
			return a.printFindings(*out, found)
		})
	}
	return cmd
}

// printFindings prints them and fails when one is an error.
func (a *app) printFindings(out format, found []mvm.Finding) error {
	bad := 0
	for _, f := range found {
		if f.Severity == "error" {
			bad++
		}
	}
	err := a.print(out, append([]mvm.Finding{}, found...), func() table {
		t := table{none: "nothing is wrong"}
		for _, f := range found {
			t.add(f.Severity, strings.TrimSpace(f.What+" "+f.Where))
			if f.Fix != "" {
				t.add("", "fix: "+f.Fix)
			}
		}
		return t
	})
	if err == nil && bad > 0 {
		err = mvm.Errorf(mvm.KindInternal, "%s", plural(bad, "problem found", "problems found"))
	}
	return err
}
