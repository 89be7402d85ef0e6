package main

import (
	"github.com/spf13/cobra"

	"github.com/mainstay-io/mainstay/internal/app"
)

func newServe(env app.Env, p parts) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Start everything in one process; no configuration needed",
		Long: `Start everything in one process: ingest, outbox, broker, workers, sagas and the three
participants. Without flags it keeps its data in ./mainstay-data, in SQLite and an embedded
NATS server, and listens on this machine only.

It stops on Ctrl-C or SIGTERM: what is under way is finished or rolled back, and goes on
after the next start. A second signal ends it at once, and that loses nothing either.`,
		Example: `  mainstay serve
  mainstay serve --data /var/lib/mainstay --http 127.0.0.1:9000
  MAINSTAY_DATABASE=postgres://mainstay@db/mainstay mainstay serve
  mainstay serve --config /etc/mainstay.yaml`,
		Args:        exactly(),
		Annotations: documented(app.ExitOK, app.ExitError, app.ExitUsage, app.ExitNotFound, app.ExitConflict, app.ExitUnreachable, app.ExitInterrupted),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := app.LoadConfigOf(app.Serve, env, cmd.Flags())
			if err != nil {
				return err
			}
			return p.serve(cmd.Context(), env, cfg)
		},
	}
	app.AddFlagsOf(app.Serve, cmd.Flags())
	return cmd
}
