package main

import (
	"github.com/spf13/cobra"

	"github.com/mainstay-io/mainstay/internal/app"
)

func newVerify(env app.Env, p parts) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check that nothing was lost, doubled or left half done",
		Long: `Check the invariants of the promise in a database, of a running system or a stopped one,
and print a line for each with what was counted. Violations are named by their ids.

Pending orders inside their deadline, open dead letters and orders that need an operator
are counted, and are no violations.

Where participants have databases of their own, --database is given several times, the
orders' first; all are checked together.`,
		Example: `  mainstay verify
  mainstay verify --data /var/lib/mainstay -o json
  mainstay verify --database postgres://mainstay@db/mainstay --journal accepted.jsonl
  mainstay verify --database postgres://mainstay@db-a/orders --database postgres://mainstay@db-b/stock`,
		Args:        exactly(),
		Annotations: documented(app.ExitOK, app.ExitError, app.ExitUsage, app.ExitNotFound, app.ExitConflict, app.ExitPartial, app.ExitUnreachable, app.ExitInterrupted),
	}
	app.AddFlags(cmd.Flags(), "data", "database")
	var o verifyOptions
	app.Repeat(cmd.Flags(), "database", &o.Others)
	cmd.Flags().StringVar(&o.Journal, "journal", "", "a client's own record to check against: a `FILE` of JSON lines with key, status and order id")
	cmd.Flags().BoolVar(&o.JournalComplete, "journal-complete", false, "there was no other client: an order that the journal does not know is a violation")
	output := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := app.LoadConfig(env, cmd.Flags())
		if err != nil {
			return err
		}
		o.Output = output.String()
		return p.verify(cmd.Context(), env, cfg, o)
	}
	return cmd
}
