package main

import (
	"context"
	"time"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/process/benchmark"
	"github.com/mainstay-io/mainstay/internal/retention"
)

// parts are what the commands run. A command whose part is nil is not offered.
type parts struct {
	// serve runs everything in one process until ctx ends.
	serve func(ctx context.Context, env app.Env, cfg app.Config) error
	// demo shows the backbone at work; a URL names a running server, "" starts one.
	demo func(ctx context.Context, env app.Env, o demoOptions) error
	// verify checks the invariants and prints what it found; violations are an error of code app.ExitPartial.
	verify func(ctx context.Context, env app.Env, cfg app.Config, o verifyOptions) error
	// bench measures and prints what it found; a run in which not everything ended well is an error of code
	// app.ExitPartial.
	bench func(ctx context.Context, env app.Env, o benchmark.Options) error
	// clean runs one round of cleaning and answers with what it did; a dry one removes nothing.
	clean func(ctx context.Context, cfg app.Config, dry bool) (retention.Report, error)
	// migrateUp applies the migrations that are missing but for contractions, migrateContract those, and both answer
	// with what they have applied; how says how patient they are, and who hears of progress.
	migrateUp, migrateContract func(ctx context.Context, cfg app.Config, how migrate.Runner) ([]migrate.Status, error)
	// migrateStatus lists all migrations.
	migrateStatus func(ctx context.Context, cfg app.Config) ([]migrate.Status, error)
}

type demoOptions struct {
	URL, OpsURL string
	// Data and Database say where the running server keeps its data, both "" when nobody said.
	Data, Database string
	// Patience is how long to wait for the orders to end.
	Patience time.Duration
	Output   string
}

type verifyOptions struct {
	// Journal is the path of a client's own record, "" for none.
	Journal string
	// JournalComplete says that there was no other client.
	JournalComplete bool
	// Others are the URLs of further databases.
	Others []string
	Output string
}
