// Package instances has the commands on instances: what they are and do, and what is done
// with them.
package instances

import (
	"github.com/spf13/cobra"

	"mvm/internal/cli/command"
)

// app is one run of the command line, with the commands of this package.
type app struct{ *command.App }

// Commands are the commands of this package.
type Commands struct {
	PS, Top, Logs, Exec, CP, Why, Events, Instance *cobra.Command
}

// New makes the commands.
func New(run *command.App) Commands {
	a := &app{run}
	return Commands{PS: a.psCmd(), Top: a.topCmd(), Logs: a.logsCmd(), Exec: a.execCmd(), CP: a.cpCmd(), Why: a.whyCmd(), Events: a.eventsCmd(),
		Instance: a.instanceCmd()}
}
