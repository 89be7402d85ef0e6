package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/retention"
)

func newClean(env app.Env, p parts) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "clean",
		Short: "Remove now what nobody needs any more",
		Long: `Run one round of cleaning now, as the servers do by themselves every ten minutes, and say
what was removed and who keeps the rest. It works beside running servers on PostgreSQL; the
SQLite database of a running server is in use. Limits are settings: give the same as there.`,
		Example: `  mainstay clean --dry-run
  mainstay clean --database postgres://mainstay@db/mainstay --outbox-retention 72h`,
		Args:        exactly(),
		Annotations: documented(app.ExitOK, app.ExitError, app.ExitUsage, app.ExitNotFound, app.ExitConflict, app.ExitUnreachable, app.ExitInterrupted),
	}
	app.AddFlags(cmd.Flags(), "data", "database", "outbox_retention", "history_retention", "barrier_retention", "private_retention")
	dry := cmd.Flags().Bool("dry-run", false, "remove nothing: say with what a round would begin")
	output := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := app.LoadConfig(env, cmd.Flags())
		if err != nil {
			return err
		}
		r, err := p.clean(cmd.Context(), cfg, *dry)
		if err != nil {
			return err
		}
		return printCleaned(env, output, r)
	}
	return cmd
}

// cleaned is a round's report as JSON has it.
type cleaned struct {
	Removed map[string]int64 `json:"removed"`
	Held    []held           `json:"held"`
}

type held struct {
	By      string  `json:"by"`
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

func printCleaned(env app.Env, output *format, r retention.Report) error {
	value, rows := cleaned{Removed: r.Removed, Held: []held{}}, [][]string{}
	for _, table := range slices.Sorted(maps.Keys(r.Removed)) {
		rows = append(rows, []string{table, strconv.FormatInt(r.Removed[table], 10)})
	}
	for _, h := range r.Holds {
		value.Held = append(value.Held, held{h.Reason, h.Name, h.For.Seconds()})
	}
	if err := output.print(env.Stdout, value, []string{"TABLE", "REMOVED"}, rows); err != nil || *output == "json" {
		return err
	}
	for _, h := range r.Holds {
		if _, err := fmt.Fprintf(env.Stdout, "old messages stay for %s %s, for %v by now\n", h.Reason, h.Name, h.For.Round(time.Second)); err != nil {
			return err
		}
	}
	return nil
}
