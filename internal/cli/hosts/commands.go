// Package hosts has the commands on a host: its agent, certificates, networks and audit log.
package hosts

import (
	"github.com/spf13/cobra"

	"mvm/internal/cli/command"
)

// app is one run of the command line, with the commands of this package.
type app struct{ *command.App }

// Commands are the commands of this package.
type Commands struct {
	Agent, Hostd, Node, Net, Doctor *cobra.Command
}

// New makes the commands. ofAgent are further ones below the command agent.
func New(run *command.App, ofAgent []*cobra.Command) Commands {
	a := &app{run}
	return Commands{Agent: a.agentCmd(ofAgent), Hostd: a.hostdCmd(), Node: a.nodeCmd(), Net: a.netCmd(), Doctor: a.doctorCmd()}
}
