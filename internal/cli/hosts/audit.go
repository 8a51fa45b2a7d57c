package hosts

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/audit"
	"mvm/internal/cli/command"
)

const verifyHelp = `Check that nobody has changed the audit log. Each entry contains the hash of the entry
before it, and the first and last entries are sealed with the host's master key. If the log
was changed, the command prints the places and exits with 1.

With --file the command checks a copy of state.db and needs no agent. Without the master
key it checks the hashes but not the seal.

If somebody replaces the whole file with an older copy, the hashes still fit. To detect
that, keep the head elsewhere and pass it with --expect later. This command prints the
head, and the agent logs it every hour.
`

func (a *app) auditCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "audit COMMAND", Short: "Check the audit log; mvm events shows its entries", Args: cobra.ArbitraryArgs, RunE: command.Group}
	cmd.AddCommand(a.auditVerifyCmd())
	return cmd
}

func (a *app) auditVerifyCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "verify [flags]", Short: "Check that nobody has changed the audit log", Long: verifyHelp, Args: cobra.NoArgs}
	file := cmd.Flags().String("file", "", "`FILE`: a copy of state.db to check, without an agent")
	keyFile := cmd.Flags().String("key-file", "", "`FILE` with the master key, for --file (default: the agent's)")
	expect := cmd.Flags().String("expect", "", "`NUMBER:HASH` of an earlier head, which the log must still contain")
	out := command.OutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		r, err := a.verifyAudit(cmd, *file, *keyFile, *expect)
		if err != nil {
			return err
		}
		if err := a.Print(*out, r, func() command.Table { return auditTable(r) }); err != nil {
			return err
		}
		if !r.Intact {
			return mvm.Errorf(mvm.KindInternal, "audit log was changed: %d places", r.BreakCount).
				WithFix("keep a copy of state.db, and compare it with a backup and with the agent's log")
		}
		return nil
	}
	return cmd
}

func (a *app) verifyAudit(cmd *cobra.Command, file, keyFile, expect string) (r mvm.AuditReport, err error) {
	if expect != "" {
		if _, err := audit.ParseMark(expect); err != nil {
			return r, command.UsageOf(cmd, err)
		}
	}
	if file == "" {
		if keyFile != "" {
			return r, command.Usagef(cmd, "--key-file needs --file: the agent uses its own key")
		}
		err = a.WithAgent(cmd, func(ctx context.Context, c *api.Client) error {
			r, err = c.VerifyEvents(ctx, expect)
			return err
		})
		return r, err
	}
	if keyFile == "" {
		cfg, err := a.Settings(nil, true)
		if err != nil {
			return r, err
		}
		keyFile = cfg.KeyFile
	} else if err := readable(keyFile); err != nil { // one that was named has to be there
		return r, err
	}
	return a.VerifyAudit(file, keyFile, expect)
}

func readable(keyFile string) error {
	f, err := os.Open(keyFile)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return mvm.Errorf(mvm.KindInvalid, "read key file: %w", err).WithFix("without --key-file the hashes are checked, but not the seal")
	}
	return nil
}

func auditTable(r mvm.AuditReport) command.Table {
	var t command.Table
	verdict := "intact"
	if !r.Intact {
		verdict = "broken"
	}
	t.Add("audit log", verdict)
	t.Add("entries", fmt.Sprintf("%d, from %d to %d", r.Entries, r.First, r.Last))
	if !r.Oldest.IsZero() {
		t.Add("oldest", r.Oldest.Local().Format("2006-01-02 15:04:05"))
	}
	t.Add("head", r.Head)
	if !r.SealChecked {
		t.Add("seal", "not compared: the master key is missing")
	}
	if r.ExpectTrimmed {
		t.Add("expected", "not compared: that entry is older than the log's oldest")
	}
	for _, b := range r.Breaks {
		t.Add("broken", b.What)
	}
	if more := r.BreakCount - len(r.Breaks); more > 0 {
		t.Add("broken", fmt.Sprintf("and %d more places", more))
	}
	return t
}
