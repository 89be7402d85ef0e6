package process

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/google/uuid"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/app"
	"github.com/mainstay-io/mainstay/internal/ingest"
	"github.com/mainstay-io/mainstay/internal/lane"
	"github.com/mainstay-io/mainstay/internal/obs"
	"github.com/mainstay-io/mainstay/internal/orchestrator"
	"github.com/mainstay-io/mainstay/internal/order"
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
	// Origin names the database among all.
	Origin() string
	Close() error
}

// Database is an open store, with what goes along with it. Whoever opened it closes it.
type Database struct {
	Store
	// Reads is for reads outside any unit, Query for those among them that come again and again.
	Reads *sql.DB
	Query order.Queryer
	// Sequencer is nil where sequences are given at append.
	Sequencer sequencer.Store
	// Gateway is where the payment sandbox keeps its own books.
	Gateway *sql.DB
	// Follow is how this process learns of what it has committed to the log; nil where others write to it as well.
	Follow func(deliver func([]*mainstay.Message)) (stop func())
	// Known reads what committed units know of steps; nil where other processes can use the database.
	Known func(ctx context.Context, consumer string, stepKeys []string) ([]lane.Barrier, error)
	// News is how processes learn of each other's work; nil where there is one process.
	News News
	// PollEvery is how often is looked for what nobody told; 0 leaves that to whoever looks.
	PollEvery time.Duration
	// Watch blocks until ctx ends, or until the database has failed for good and the process has to; nil where that
	// cannot be.
	Watch func(ctx context.Context) error
	// Alone says that no other process can use the database: leases are taken by force.
	Alone bool
	// Place says in words where it is.
	Place string
}

// News is what processes tell each other beside the log's own growth.
type News interface {
	// SayEnded tells all processes that orders have ended. It does not block.
	SayEnded()
	// Ended gives a channel that has a value after orders have ended.
	Ended() (<-chan struct{}, func())
}

// pollEvery is how often a process looks for what nobody tells it.
const pollEvery = 20 * time.Millisecond

// UnsafeNotice is what a process says of its database at the start where it was allowed to be unsafe.
const UnsafeNotice = "a crash may take back what was accepted"

// unwatched ends the names of holders that cannot keep a session, see postgres.Unwatched.
func unwatched(cfg app.Config) string {
	if cfg.Wakeups == "poll" {
		return postgres.Unwatched
	}
	return ""
}

// OpenPostgres opens the configured PostgreSQL database, whose schema must be there. Errors are for operators, with
// the exit code that they stand for.
func OpenPostgres(ctx context.Context, cfg app.Config, log *slog.Logger) (*Database, error) {
	st, err := postgres.Open(ctx, postgres.Config{URL: cfg.Database, PollOnly: cfg.Wakeups == "poll", AllowUnsafe: cfg.AllowUnsafe, Logger: log})
	if err != nil {
		return nil, ExplainPostgres(err, cfg)
	}
	db := &Database{
		Store: st, Reads: st.DB().DB, Query: st.DB(), Sequencer: st, Gateway: st.DB().DB, News: st, Place: app.Redact(cfg.Database),
	}
	if off := st.Unsafe(); off != "" {
		db.Place += "   (" + off + "=off: " + UnsafeNotice + ")"
	}
	if cfg.Wakeups == "poll" {
		db.PollEvery = pollEvery
	}
	return db, nil
}

// NewHolder names this process in leases, unlike any other one, an earlier one of the same number included.
func NewHolder(cfg app.Config) (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("naming this process: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d/%s%s", host, os.Getpid(), id, unwatched(cfg)), nil
}
