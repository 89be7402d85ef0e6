package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/demo"
	invariants "github.com/mainstay-io/mainstay/internal/verify"
)

func newDemo(env app.Env, p parts) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Watch orders go through, kill the server, and see that none is lost",
		Long: `Start a server in a temporary directory, send it orders of every kind, show them as they
move, kill the server at the height of the load, start it again, and say what became of
each order. It takes less than a minute and leaves nothing behind.

With --url it uses a server that runs already, and never kills it. Its orders stay there, and
so does the stock of its articles (demo-...) and the capacity of one country (AQ), which it
sets. The database is verified when --data or --database says where it is.`,
		Example: `  mainstay demo
  mainstay demo --url http://127.0.0.1:8080 --ops-url http://127.0.0.1:8081 --data ./mainstay-data`,
		Args:        exactly(),
		Annotations: documented(app.ExitOK, app.ExitError, app.ExitUsage, app.ExitNotFound, app.ExitConflict, app.ExitPartial, app.ExitUnreachable, app.ExitInterrupted),
	}
	var o demoOptions
	cmd.Flags().StringVar(&o.URL, "url", "", "ingest API of a running server (`URL`)")
	cmd.Flags().StringVar(&o.OpsURL, "ops-url", "", "operator API of a running server (`URL`)")
	cmd.Flags().StringVar(&o.Data, "data", "", "`DIR` where the running server keeps its data, to verify it")
	cmd.Flags().StringVar(&o.Database, "database", "", "`URL` of the running server's database, to verify it")
	cmd.Flags().DurationVar(&o.Patience, "patience", 40*time.Second, "how long to wait for the orders to end")
	output := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if (o.URL == "") != (o.OpsURL == "") {
			return usageError(cmd, "--url and --ops-url belong together: a running server has both addresses")
		}
		if o.URL == "" && (o.Data != "" || o.Database != "") {
			return usageError(cmd, "--data and --database are about a running server, so they go with --url and --ops-url")
		}
		o.Output = output.String()
		return p.demo(cmd.Context(), env, o)
	}
	return cmd
}

// runDemo runs the demo with this program as the server.
func runDemo(ctx context.Context, env app.Env, o demoOptions) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("looking for this program, which is the demo's server as well: %w", err)
	}
	return demo.Run(ctx, env, demo.Options{
		URL: o.URL, OpsURL: o.OpsURL, Place: demo.Place{Data: o.Data, Database: o.Database},
		Executable: self, Patience: o.Patience, JSON: o.Output == "json", Verify: verifyDemo,
	})
}

// verifyDemo makes all checks for the demo, and names every violation.
func verifyDemo(ctx context.Context, at demo.Place, journal io.Reader, complete bool) (_ invariants.Report, err error) {
	options, err := openChecked(ctx, app.Config{Data: at.Data, Database: at.Database})
	if err != nil {
		return invariants.Report{}, err
	}
	defer func() { err = errors.Join(err, options.DB.Close()) }()
	options.Journal, options.JournalComplete, options.Limit = journal, complete, 1000
	return invariants.Run(ctx, options)
}
