package serve

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/clock"
	"github.com/mainstay-io/mainstay/internal/ingest"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/migrate"
	"github.com/mainstay-io/mainstay/internal/obs"
	"github.com/mainstay-io/mainstay/internal/orchestrator"
	"github.com/mainstay-io/mainstay/internal/relay"
	"github.com/mainstay-io/mainstay/internal/sequencer"
	"github.com/mainstay-io/mainstay/internal/store/postgres"
	"github.com/mainstay-io/mainstay/internal/store/sqlite"
)

// store is a database as this process uses it.
type store interface {
	lane.Store
	relay.Store
	orchestrator.Store
	ingest.Store
	obs.BacklogReader
	Run(ctx context.Context, fn func(ctx context.Context, tx mainstay.Tx) error) error
	Dialect() mainstay.Dialect
	Lanes() int
	Close() error
}

// database is the open store, with what goes along with it.
type database struct {
	store
	reads *sql.DB
	// sequencer is nil where sequences are given at append.
	sequencer sequencer.Store
	// gateway is where the sandbox keeps its own books.
	gateway *sql.DB
	// alone says that no other process can use the database: leases are taken by force.
	alone bool
	// place says in words where it is.
	place string
}

// openDatabase opens the configured database. The SQLite one is made and migrated; a server's schema must be there.
func openDatabase(ctx context.Context, cfg app.Config, log *slog.Logger) (*database, error) {
	if isSQLite(cfg) {
		return openSQLite(ctx, cfg, log)
	}
	return openPostgres(ctx, cfg, log)
}

func openSQLite(ctx context.Context, cfg app.Config, log *slog.Logger) (*database, error) {
	path := sqlitePath(cfg)
	if err := migrateSQLite(ctx, path, cfg.Lanes); err != nil {
		return nil, explainSQLite(err, path)
	}
	st, err := sqlite.Open(ctx, sqlite.Config{Path: path, Clock: clock.System, Logger: log})
	if err != nil {
		return nil, explainSQLite(err, path)
	}
	books := filepath.Join(filepath.Dir(path), gatewayFile)
	reserve(books)
	gateway, err := sql.Open("sqlite", sqlite.DSN(books, "FULL", false))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the gateway's books: %w", err), st.Close())
	}
	return &database{store: st, reads: st.Reader(), gateway: gateway, alone: true, place: "SQLite " + path}, nil
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

func openPostgres(ctx context.Context, cfg app.Config, log *slog.Logger) (*database, error) {
	st, err := postgres.Open(ctx, postgres.Config{URL: cfg.Database, Logger: log})
	if err != nil {
		return nil, explainPostgres(err, cfg.Database)
	}
	return &database{
		store: st, reads: st.DB().DB, sequencer: st, gateway: st.DB().DB, place: app.Redact(cfg.Database),
	}, nil
}
