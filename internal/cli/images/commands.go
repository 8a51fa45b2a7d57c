// Package images has the commands on images that people make.
package images

import (
	"github.com/spf13/cobra"

	"mvm/internal/cli/command"
)

// app is one run of the command line, with the commands of this package.
type app struct{ *command.App }

// New makes the command image.
func New(run *command.App) *cobra.Command {
	a := &app{run}
	cmd := &cobra.Command{Use: "image COMMAND", Short: "Images: make one of your own program", Args: cobra.ArbitraryArgs, RunE: command.Group}
	cmd.AddCommand(a.buildCmd())
	return cmd
}
