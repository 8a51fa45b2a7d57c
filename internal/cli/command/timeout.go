package command

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"mvm"
)

// TimeoutHelp says for how long a command that has --timeout waits.
const TimeoutHelp = `
The command fails at once if a service failed for good, or failed 3 times in a row.
Otherwise it waits for each instance: up to 3 minutes until the guest answers, and up to 15
minutes until its services are ready. --timeout limits the whole wait. The agent continues
in any case.
`

// TimeoutFlag has a command wait for a limited time.
func TimeoutFlag(cmd *cobra.Command) *time.Duration {
	limit := cmd.Flags().Duration("timeout", 0, "give up waiting after this time, such as 90s or 10m, and exit with 1 (default: see --help)")
	cmd.Flags().Lookup("timeout").DefValue = ""
	return limit
}

// CheckTimeout refuses a --timeout that means nothing; waits: the command does wait.
func CheckTimeout(cmd *cobra.Command, limit time.Duration, waits bool) error {
	switch {
	case !cmd.Flags().Changed("timeout"):
		return nil
	case !waits:
		return Usagef(cmd, "--timeout does not apply: the command does not wait")
	case limit <= 0:
		return Usagef(cmd, "--timeout %s is not a time to wait", limit)
	}
	return nil
}

// Within runs f, which waits for the agent, for at most so long; 0: without end. p shows
// how far it is, and its last line goes into the error.
func Within(ctx context.Context, limit time.Duration, what string, p *progress, f func(ctx context.Context) error) error {
	if limit == 0 {
		return f(ctx)
	}
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := f(bounded)
	if err == nil || ctx.Err() != nil || !errors.Is(bounded.Err(), context.DeadlineExceeded) || answered(err) {
		return err
	}
	text := ""
	if last := p.lastText(); last != "" {
		text = ": " + last
	}
	return mvm.Errorf(mvm.KindTimeout, "%s: not done within %s%s", what, limit.Round(10*time.Millisecond), text).
		WithFix("the agent continues; see `mvm ps`, and `mvm why INSTANCE` for what an instance waits for")
}
