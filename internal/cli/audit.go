package cli

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
	"mvm/internal/audit"
)

const verifyHelp = `Follow the audit log from its first entry to its last and say whether it is what was
written: each entry has the hash of all before it, and the two ends are sealed with the
key of the host. Where it is not, tell where, and end with 1.

With --file it looks into a copy of state.db, without an agent; without the key file
(--key-file) the chain is followed and the seal not compared.

An older copy of the whole file in place of the present one shows only against what was
noted down elsewhere: keep the head that this command prints, or the agent logs every
hour, and give it back with --expect.
`

func (a *app) auditCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "audit COMMAND", Short: "The audit log as a whole; its entries are in mvm events", Args: cobra.ArbitraryArgs, RunE: group}
	cmd.AddCommand(a.auditVerifyCmd())
	return cmd
}

func (a *app) auditVerifyCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "verify [flags]", Short: "Check that nobody has changed the audit log", Long: verifyHelp, Args: cobra.NoArgs}
	file := cmd.Flags().String("file", "", "`FILE`: a copy of state.db, instead of asking the agent")
	keyFile := cmd.Flags().String("key-file", "", "`FILE` with the master key, for --file (default: the agent's)")
	expect := cmd.Flags().String("expect", "", "`NUMBER:HASH` of an entry that the log must still have: an earlier head")
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		r, err := a.verifyAudit(cmd, *file, *keyFile, *expect)
		if err != nil {
			return err
		}
		if err := a.print(*out, r, func() table { return auditTable(r) }); err != nil {
			return err
		}
		if !r.Intact {
			return mvm.Errorf(mvm.KindInternal, "audit log is not what was written: %d places", r.BreakCount).
				WithFix("keep a copy of state.db as it is now, and compare with a backup and the agent's own log")
		}
		return nil
	}
	return cmd
}

func (a *app) verifyAudit(cmd *cobra.Command, file, keyFile, expect string) (r mvm.AuditReport, err error) {
	if expect != "" {
		if _, err := audit.ParseMark(expect); err != nil {
			return r, usageOf(cmd, err)
		}
	}
	if file == "" {
		if keyFile != "" {
			return r, usagef(cmd, "--key-file is for --file; the agent has its key")
		}
		err = a.withAgent(cmd, func(ctx context.Context, c *api.Client) error {
			r, err = c.VerifyEvents(ctx, expect)
			return err
		})
		return r, err
	}
	if keyFile == "" {
		cfg, err := a.settings(nil, true)
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
		return mvm.Errorf(mvm.KindInvalid, "read key file: %w", err).WithFix("without --key-file the chain is followed and the seal not compared")
	}
	return nil
}

func auditTable(r mvm.AuditReport) table {
	var t table
	verdict := "intact"
	if !r.Intact {
		verdict = "broken"
	}
	t.add("audit log", verdict)
	t.add("entries", fmt.Sprintf("%d, from %d to %d", r.Entries, r.First, r.Last))
	if !r.Oldest.IsZero() {
		t.add("oldest", r.Oldest.Local().Format("2006-01-02 15:04:05"))
	}
	t.add("head", r.Head)
	if !r.SealChecked {
		t.add("seal", "not compared, for want of the key")
	}
	if r.ExpectTrimmed {
		t.add("expected", "older than what is kept, so there is nothing to compare it with")
	}
	for _, b := range r.Breaks {
		t.add("broken", b.What)
	}
	if more := r.BreakCount - len(r.Breaks); more > 0 {
		t.add("broken", fmt.Sprintf("and %d more places", more))
	}
	return t
}
