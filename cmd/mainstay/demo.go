package main

import (
	"github.com/spf13/cobra"

	"github.com/mainstay-io/mainstay/internal/app"
)

func newDemo(env app.Env, p parts) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Watch orders go through, kill the server, and see that none is lost",
		Long: `Start a server in a temporary directory, send it orders of every kind, show them as they
move, kill the server at the height of the load, start it again, and say what became of
each order. It takes less than a minute and leaves nothing behind.

With --url it uses a server that runs already, and never kills it.`,
		Example: `  mainstay demo
  mainstay demo --url http://127.0.0.1:8080 --ops-url http://127.0.0.1:8081`,
		Args:        exactly(),
		Annotations: documented(app.ExitOK, app.ExitError, app.ExitUsage, app.ExitPartial, app.ExitUnreachable, app.ExitInterrupted),
	}
	var o demoOptions
	cmd.Flags().StringVar(&o.URL, "url", "", "ingest API of a running server (`URL`)")
	cmd.Flags().StringVar(&o.OpsURL, "ops-url", "", "operator API of a running server (`URL`)")
	output := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if (o.URL == "") != (o.OpsURL == "") {
			return usageError(cmd, "--url and --ops-url belong together: a running server has both addresses")
		}
		o.Output = output.String()
		return p.demo(cmd.Context(), env, o)
	}
	return cmd
}
