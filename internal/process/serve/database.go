package serve

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/process"
	"github.com/mainstay-io/mainstay/internal/store/sqlite"
)

// openDatabase opens the configured database. The SQLite one is made and migrated; a server's schema must be there.
func openDatabase(ctx context.Context, cfg app.Config, log *slog.Logger) (*process.Database, error) {
	if isSQLite(cfg) {
		return openSQLite(ctx, cfg, log)
	}
	return process.OpenPostgres(ctx, cfg, log)
}

func openSQLite(ctx context.Context, cfg app.Config, log *slog.Logger) (*process.Database, error) {
	file, _ := cfg.SQLite()
	path, place := file.Path, "SQLite "+file.Path
	if file.Unsafe() {
		place += "   (synchronous=" + strings.ToLower(file.Synchronous) + ": " + process.UnsafeNotice + ")"
	}
	if err := migrateSQLite(ctx, path, cfg.Lanes); err != nil {
		return nil, explainSQLite(err, path)
	}
	st, err := sqlite.Open(ctx, sqlite.Config{Path: path, Sync: file.Synchronous, Clock: clock.System, Logger: log})
	if err != nil {
		return nil, explainSQLite(err, path)
	}
	books := filepath.Join(filepath.Dir(path), gatewayFile)
	reserve(books)
	gateway, err := sql.Open("sqlite", sqlite.DSN(books, "FULL", false))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the gateway's books: %w", err), st.Close())
	}
	watch := func(ctx context.Context) error { return explainFailure(st.Watch(ctx), path) }
	return &process.Database{
		Store: st, Reads: st.Reader(), Query: st, Follow: st.Follow, Known: st.Barriers, Gateway: gateway, Watch: watch, Alone: true, Place: place,
	}, nil
}

// migrateSQLite makes the file and brings its schema up to date.
func migrateSQLite(ctx context.Context, path string, lanes int) (err error) {
	reserve(path)
	db, err := sql.Open("sqlite", sqlite.DSN(path, "FULL", false))
	if err != nil {
		return fmt.Errorf("opening %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	defer func() { err = errors.Join(err, db.Close()) }()
	if lanes == 0 {
		lanes = migrate.DefaultServerLanes
	}
	if err := refuseNewer(ctx, db, path); err != nil {
		return err
	}
	if _, err := migrate.Up(ctx, db, mainstay.SQLite, lanes); err != nil {
		return fmt.Errorf("bringing %s up to date: %w", path, err)
	}
	return nil
}
