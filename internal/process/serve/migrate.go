package serve

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/process"
	"github.com/mainstay-io/mainstay/internal/store/sqlite"
)

// MigrateUp brings the configured database's schema up to date and answers with what was applied; see migrate.Runner,
// of which how has everything but the database.
func MigrateUp(ctx context.Context, cfg app.Config, how migrate.Runner) ([]migrate.Status, error) {
	return withSchema(ctx, cfg, func(db *sql.DB, dialect mainstay.Dialect) ([]migrate.Status, error) {
		lanes := cfg.Lanes
		switch {
		case lanes != 0:
		case dialect == mainstay.SQLite:
			lanes = migrate.DefaultServerLanes
		default:
			lanes = migrate.DefaultLanes
		}
		how.DB, how.Dialect = db, dialect
		applied, err := how.Up(ctx, lanes)
		if err != nil || cfg.Lanes == 0 {
			return applied, err
		}
		return applied, sameLanes(ctx, db, cfg)
	})
}

// sameLanes refuses a number of lanes that the database does not have.
func sameLanes(ctx context.Context, db *sql.DB, cfg app.Config) error {
	switch lanes, err := migrate.Lanes(ctx, db); {
	case err != nil:
		return err
	case lanes != cfg.Lanes:
		return app.Errorf(app.ExitConflict, "The number is fixed when a database is made: leave it out, or make a new database.",
			"%s asks for %d lanes, and the database has %d", cmp.Or(cfg.Origin("lanes").Name, "lanes"), cfg.Lanes, lanes)
	}
	return nil
}

// MigrateContract takes away what programs of the version before need, and answers with what was applied.
func MigrateContract(ctx context.Context, cfg app.Config, how migrate.Runner) ([]migrate.Status, error) {
	if isSQLite(cfg) {
		return nil, nil // it has one process, and `up` has done it all
	}
	return withSchema(ctx, cfg, func(db *sql.DB, dialect mainstay.Dialect) ([]migrate.Status, error) {
		how.DB, how.Dialect = db, dialect
		return how.Contract(ctx)
	})
}

// MigrateStatus lists all migrations of the configured database. It makes no SQLite database where there is none.
func MigrateStatus(ctx context.Context, cfg app.Config) ([]migrate.Status, error) {
	if isSQLite(cfg) && !exists(sqlitePath(cfg)) {
		return nothingApplied(ctx)
	}
	return withSchema(ctx, cfg, func(db *sql.DB, dialect mainstay.Dialect) ([]migrate.Status, error) {
		return migrate.List(ctx, db, dialect)
	})
}

func withSchema(ctx context.Context, cfg app.Config, do func(*sql.DB, mainstay.Dialect) ([]migrate.Status, error)) (list []migrate.Status, err error) {
	dialect, driver, source := mainstay.Postgres, "pgx", cfg.Database
	if isSQLite(cfg) {
		path := sqlitePath(cfg)
		lock, err := lockDir(filepath.Dir(path))
		if err != nil {
			return nil, err
		}
		defer unlockDir(lock)
		reserve(path)
		dialect, driver, source = mainstay.SQLite, "sqlite", sqlite.DSN(path, "FULL", false)
	}
	db, err := sql.Open(driver, source)
	if err != nil {
		return nil, app.Errorf(app.ExitUsage, "A database URL is postgres://USER:PASSWORD@HOST/NAME.", "opening %s: %w", app.Redact(cfg.Database), err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.PingContext(ctx); err != nil {
		if dialect == mainstay.SQLite {
			return nil, explainSQLite(err, sqlitePath(cfg))
		}
		return nil, process.ExplainPostgres(err, cfg)
	}
	list, err = do(db, dialect)
	return list, explainMigration(err)
}

// explainMigration tells an operator what to do about an error of a migration.
func explainMigration(err error) error {
	var (
		newer   *migrate.NewerError
		waited  *migrate.WaitError
		older   *migrate.OlderProgramsError
		earlier *migrate.EarlierError
	)
	var told *app.Error
	switch {
	case err == nil, errors.As(err, &told):
		return err
	case errors.As(err, &newer):
		return app.Errorf(app.ExitConflict, "Use a program at least as new as the one that migrated it; nothing was changed.", "migrating: %w", err)
	case errors.As(err, &waited):
		return app.Errorf(app.ExitPending, "End these transactions (`select pg_terminate_backend(PID)`) or wait for them, and run it again; --wait says how long it waits itself.", "migrating: %w", err)
	case errors.As(err, &older):
		return app.Errorf(app.ExitConflict, "Replace these processes by newer ones first; nothing was changed.", "migrating: %w", err)
	case errors.As(err, &earlier):
		return app.Errorf(app.ExitConflict, "Run `mainstay migrate up` first; nothing was changed.", "migrating: %w", err)
	default:
		return fmt.Errorf("migrating: %w", err)
	}
}
