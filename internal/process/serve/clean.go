package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/process"
	outboxpart "github.com/mainstay-io/mainstay/internal/process/outbox"
	"github.com/mainstay-io/mainstay/internal/retention"
)

// Clean runs one round of cleaning on the configured database, which must exist; a dry run removes nothing.
func Clean(ctx context.Context, cfg app.Config, dry bool) (r retention.Report, err error) {
	if isSQLite(cfg) && !exists(sqlitePath(cfg)) {
		return r, app.Errorf(app.ExitUsage, "Name the database with --database, or its directory with --data.", "there is no database %s", sqlitePath(cfg))
	}
	held, err := lockPlaces(cfg)
	if err != nil {
		return r, err
	}
	defer held.release()
	db, err := openDatabase(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, closeDatabase(db)) }()
	holder, err := process.NewHolder(cfg)
	if err != nil {
		return r, err
	}
	c := outboxpart.NewCleaner(outboxpart.Config{Config: cfg, DB: db, Holder: holder, Log: slog.New(slog.DiscardHandler)})
	round := c.Round
	if dry {
		round = c.DryRun
	}
	if r, err = round(ctx); err != nil {
		return r, fmt.Errorf("cleaning: %w", err)
	}
	if r.Busy {
		return r, app.Errorf(app.ExitConflict, "It works on the same; try again in a few minutes.", "another process is cleaning this database")
	}
	return r, nil
}
