package hosts

import (
	"github.com/spf13/cobra"

	"mvm"
	"mvm/internal/api"
)

const schemaHelp = `Print the schema of the API as an OpenAPI 3.0 document in JSON: every request, response
and error. The command needs no agent. A running agent serves its own schema at
/v1/openapi.json.
`

func (a *app) schemaCmd() *cobra.Command {
	return &cobra.Command{Use: "schema", Short: "Print the schema of the API (OpenAPI)", Long: schemaHelp, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			doc, err := api.OpenAPI(a.Version.Version)
			if err != nil {
				return err
			}
			if _, err := a.Stdout.Write(doc); err != nil {
				return mvm.Errorf(mvm.KindInternal, "write output: %w", err)
			}
			return nil
		}}
}
