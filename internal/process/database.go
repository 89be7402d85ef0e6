package process

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"

	"github.com/google/uuid"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/ingest"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/obs"
	"github.com/mainstay-io/mainstay/internal/orchestrator"
	"github.com/mainstay-io/mainstay/internal/relay"
	"github.com/mainstay-io/mainstay/internal/retention"
	"github.com/mainstay-io/mainstay/internal/sequencer"
	"github.com/mainstay-io/mainstay/internal/store/postgres"
)

// Store is a database as processes use it.
type Store interface {
	lane.Store
	relay.Store
	orchestrator.Store
	ingest.Store
	obs.BacklogReader
	retention.Store
	Run(ctx context.Context, fn func(ctx context.Context, tx mainstay.Tx) error) error
	Dialect() mainstay.Dialect
	Lanes() int
	Close() error
}

// Database is an open store, with what goes along with it. Whoever opened it closes it.
type Database struct {
	Store
	// Reads is for reads outside any unit.
	Reads *sql.DB
	// Sequencer is nil where sequences are given at append.
	Sequencer sequencer.Store
	// Gateway is where the payment sandbox keeps its own books.
	Gateway *sql.DB
	// Alone says that no other process can use the database: leases are taken by force.
	Alone bool
	// Place says in words where it is.
	Place string
}

// OpenPostgres opens the configured PostgreSQL database, whose schema must be there. Errors are for operators, with
// the exit code that they stand for.
func OpenPostgres(ctx context.Context, cfg app.Config, log *slog.Logger) (*Database, error) {
	st, err := postgres.Open(ctx, postgres.Config{URL: cfg.Database, Logger: log})
	if err != nil {
		return nil, ExplainPostgres(err, cfg.Database)
	}
	return &Database{
		Store: st, Reads: st.DB().DB, Sequencer: st, Gateway: st.DB().DB, Place: app.Redact(cfg.Database),
	}, nil
}

// NewHolder names this process in leases, unlike any other one, an earlier one of the same number included.
func NewHolder() (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("naming this process: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d/%s", host, os.Getpid(), id), nil
}
