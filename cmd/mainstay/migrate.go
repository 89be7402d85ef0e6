package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/migrations"
)

func newMigrate(env app.Env, p parts) *cobra.Command {
	cmd := group("migrate", "Bring a database's schema up to this version", `Bring the schema of a database up to what this version of the program needs. Several may
try at once: one works, the others wait for it. It may be repeated after any failure.

On PostgreSQL processes of the version before go on meanwhile: `+"`up`"+` adds and fills what
the new ones need, then the processes are replaced, then `+"`contract`"+` takes away what only
the old ones needed.`)
	up := migrateChange(env, p.migrateUp, "up", "Apply the migrations that are missing, but for contractions",
		`Apply the migrations that are missing, in order, and list them. A new database gets its
number of lanes, which is fixed from then on. What would break processes of the version
before is left to `+"`mainstay migrate contract`"+`, but for a new database. Sessions that are in
the way are named on standard error, as is how far a backfill is.`, upToDate)
	app.AddFlags(up.Flags(), "data", "database", "lanes")
	contract := migrateChange(env, p.migrateContract, "contract", "Take away what processes of the version before need",
		`Apply the contractions that are due, and list them. While a process is connected that does
not know the new schema it is refused, and nothing is changed; afterwards such a process
does not start.`, upToDate)
	app.AddFlags(contract.Flags(), "data", "database")
	status := migrateCommand("status", "List all migrations, applied or not",
		`List all migrations that this version of the program knows, what they are, and when each
was applied, and say what to do when some are missing, which is no error: the exit code is
0. Nothing is applied.`)
	app.AddFlags(status.Flags(), "data", "database")
	listing(env, status, missing, p.migrateStatus)
	cmd.AddCommand(up, contract, status)
	return cmd
}

// migrateChange is a command that changes the schema, and tells people on standard error how that goes.
func migrateChange(env app.Env, do func(context.Context, app.Config, migrate.Runner) ([]migrate.Status, error), use, short, long string, note func([]migrate.Status) string) *cobra.Command {
	cmd := migrateCommand(use, short, long)
	how := migrate.Runner{Say: func(line string) { _, _ = fmt.Fprintln(env.Stderr, line) }}
	cmd.Flags().DurationVar(&how.Wait, "wait", migrate.DefaultWait, "how long to wait for sessions that are in the way, of PostgreSQL")
	cmd.Flags().IntVar(&how.Chunk, "chunk", migrate.DefaultChunk, "how many rows a backfill looks at in a transaction")
	listing(env, cmd, note, func(ctx context.Context, cfg app.Config) ([]migrate.Status, error) {
		if how.Wait <= 0 || how.Chunk <= 0 {
			return nil, app.Errorf(app.ExitUsage, "Give a duration such as 2m, and a number such as 1000.", "--wait and --chunk must be positive")
		}
		return do(ctx, cfg, how)
	})
	return cmd
}

func migrateCommand(use, short, long string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long,
		Example: "  mainstay migrate " + use + "\n" +
			"  mainstay migrate " + use + " --database postgres://mainstay@db/mainstay",
		Args:        exactly(),
		Annotations: documented(app.ExitOK, app.ExitError, app.ExitUsage, app.ExitNotFound, app.ExitConflict, app.ExitUnreachable, app.ExitPending, app.ExitInterrupted),
	}
}

// listing makes cmd print what do answers, and for people the note.
func listing(env app.Env, cmd *cobra.Command, note func([]migrate.Status) string, do func(context.Context, app.Config) ([]migrate.Status, error)) {
	output := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := app.LoadConfig(env, cmd.Flags())
		if err != nil {
			return err
		}
		list, err := do(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		return printMigrations(env, output, list, note)
	}
}

// upToDate says so when nothing was applied.
func upToDate(applied []migrate.Status) string {
	if len(applied) > 0 {
		return ""
	}
	return "nothing to do: the schema is up to date"
}

// missing says what to do about migrations that were not applied; "" when there are none.
func missing(list []migrate.Status) string {
	list = slices.DeleteFunc(slices.Clone(list), func(s migrate.Status) bool { return !s.AppliedAt.IsZero() })
	if len(list) == 0 {
		return ""
	}
	n := slices.IndexFunc(list, func(s migrate.Status) bool { return s.Kind == migrations.Contract })
	switch {
	case n == 0:
		return fmt.Sprintf("%s is due: when all processes know migration %d, run `mainstay migrate contract` with the same settings",
			list[0].Name, list[0].Needs)
	case n < 0:
		n = len(list)
	}
	return fmt.Sprintf("%d missing: run `mainstay migrate up` with the same settings", n)
}

// migration is a migration as JSON has it.
type migration struct {
	Version   int64           `json:"version"`
	Name      string          `json:"name"`
	Kind      migrations.Kind `json:"kind"`
	Needs     int64           `json:"needs,omitempty"`
	AppliedAt *time.Time      `json:"applied_at"`
	Filled    int64           `json:"filled,omitempty"`
}

// printMigrations prints the list, if there is one, and for people the note.
func printMigrations(env app.Env, output *format, list []migrate.Status, note func([]migrate.Status) string) error {
	value, rows := []migration{}, [][]string{}
	for _, s := range list {
		m := migration{Version: s.Version, Name: s.Name, Kind: s.Kind, Needs: s.Needs, Filled: s.Filled}
		at := "missing"
		switch {
		case !s.AppliedAt.IsZero():
			m.AppliedAt, at = &s.AppliedAt, s.AppliedAt.UTC().Format(time.RFC3339)
		case s.Filled > 0:
			at = fmt.Sprintf("%d rows filled", s.Filled)
		}
		value, rows = append(value, m), append(rows, []string{strconv.FormatInt(s.Version, 10), s.Name, string(s.Kind), at})
	}
	if *output == "json" || len(list) > 0 {
		if err := output.print(env.Stdout, value, []string{"VERSION", "NAME", "KIND", "APPLIED"}, rows); err != nil {
			return err
		}
	}
	if text := note(list); *output != "json" && text != "" {
		_, err := fmt.Fprintln(env.Stdout, text)
		return err
	}
	return nil
}
