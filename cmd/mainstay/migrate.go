package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/migrate"
)

func newMigrate(env app.Env, p parts) *cobra.Command {
	cmd := group("migrate", "Bring a database's schema up to this version", `Bring the schema of a database up to what this version of the program needs. Several may
try at once: one works, the others wait for it. It may be repeated after any failure.`)
	up := migrateCommand(env, p.migrateUp, "up", "Apply the migrations that are missing",
		"Apply the migrations that are missing, in order, and list them. A new database gets its\nnumber of lanes, which is fixed from then on.",
		upToDate)
	app.AddFlags(up.Flags(), "data", "database", "lanes")
	status := migrateCommand(env, p.migrateStatus, "status", "List all migrations, applied or not",
		"List all migrations that this version of the program knows, with the time when each was\napplied, and say what to do when some are missing, which is no error: the exit code is 0.\nNothing is applied.",
		missing)
	app.AddFlags(status.Flags(), "data", "database")
	cmd.AddCommand(up, status)
	return cmd
}

func migrateCommand(env app.Env, do func(context.Context, app.Config) ([]migrate.Status, error), use, short, long string, note func([]migrate.Status) string) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long,
		Example: "  mainstay migrate " + use + "\n" +
			"  mainstay migrate " + use + " --database postgres://mainstay@db/mainstay",
		Args:        exactly(),
		Annotations: documented(app.ExitOK, app.ExitError, app.ExitUsage, app.ExitConflict, app.ExitUnreachable),
	}
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
	return cmd
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
	n := 0
	for _, s := range list {
		if s.AppliedAt.IsZero() {
			n++
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d missing: run `mainstay migrate up` with the same settings", n)
}

// migration is a migration as JSON has it.
type migration struct {
	Version   int64      `json:"version"`
	Name      string     `json:"name"`
	AppliedAt *time.Time `json:"applied_at"`
}

// printMigrations prints the list, if there is one, and for people the note.
func printMigrations(env app.Env, output *format, list []migrate.Status, note func([]migrate.Status) string) error {
	value, rows := []migration{}, [][]string{}
	for _, s := range list {
		m, at := migration{Version: s.Version, Name: s.Name}, "missing"
		if !s.AppliedAt.IsZero() {
			m.AppliedAt, at = &s.AppliedAt, s.AppliedAt.UTC().Format(time.RFC3339)
		}
		value, rows = append(value, m), append(rows, []string{strconv.FormatInt(s.Version, 10), s.Name, at})
	}
	if *output == "json" || len(list) > 0 {
		if err := output.print(env.Stdout, value, []string{"VERSION", "NAME", "APPLIED"}, rows); err != nil {
			return err
		}
	}
	if text := note(list); *output != "json" && text != "" {
		_, err := fmt.Fprintln(env.Stdout, text)
		return err
	}
	return nil
}
