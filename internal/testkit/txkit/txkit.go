// Package txkit gives tests of handlers what the stores give in production: databases of both dialects, and
// mainstay.Tx over them. For tests only.
package txkit

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "modernc.org/sqlite"             // the driver "sqlite"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/internal/testkit/pgtest"
)

// Each runs test as a parallel subtest on an empty database of each dialect. Without a PostgreSQL server that
// dialect's subtest is skipped.
func Each(t *testing.T, test func(t *testing.T, db *DB)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, SQLite(t))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, Postgres(t))
	})
}

// DB is a database of a test; it satisfies what contexts call a runner and a reader.
type DB struct {
	*sql.DB
	Dialect mainstay.Dialect
	// Now gives the instant of transactions.
	Now func() time.Time
}

// SQLite makes an empty database in a file.
func SQLite(t testing.TB) *DB {
	t.Helper()
	dsn := "file:" + filepath.Join(t.TempDir(), "test.db") +
		"?_txlock=immediate&_pragma=busy_timeout(10000)&_pragma=journal_mode(wal)&_pragma=synchronous(full)"
	return open(t, "sqlite", dsn, mainstay.SQLite)
}

// Postgres makes an empty database on the test server; it skips the test where there is no server.
func Postgres(t testing.TB) *DB {
	t.Helper()
	return open(t, "pgx", pgtest.New(t), mainstay.Postgres)
}

func open(t testing.TB, driver, dsn string, dialect mainstay.Dialect) *DB {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return &DB{DB: db, Dialect: dialect, Now: func() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }}
}

// Migrate runs the Up part of a migration file; path is that of the folder with both dialects' migrations.
func (db *DB) Migrate(t testing.TB, path, file string) {
	t.Helper()
	up, _ := db.sections(t, path, file)
	db.Exec(t, up)
}

// MigrateDown runs the Down part.
func (db *DB) MigrateDown(t testing.TB, path, file string) {
	t.Helper()
	_, down := db.sections(t, path, file)
	db.Exec(t, down)
}

func (db *DB) sections(t testing.TB, path, file string) (up, down string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path, string(db.Dialect), file))
	if err != nil {
		t.Fatal(err)
	}
	up, down, found := strings.Cut(string(b), "-- +goose Down")
	if !found {
		t.Fatalf("%s has no Down section", file)
	}
	return up, down
}

// Exec runs statements.
func (db *DB) Exec(t testing.TB, statements string, args ...any) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), statements, args...); err != nil {
		t.Fatalf("%s: %v", statements, err)
	}
}

// Int64 runs a query that gives one number.
func (db *DB) Int64(t testing.TB, query string, args ...any) int64 {
	t.Helper()
	var n int64
	if err := db.QueryRowContext(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// Run runs fn in a transaction, which is committed when fn gives nil, after the queued statements.
func (db *DB) Run(ctx context.Context, fn func(ctx context.Context, tx mainstay.Tx) error) error {
	sqlTx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = sqlTx.Rollback() }()
	tx := &Tx{Tx: sqlTx, dialect: db.Dialect, now: db.Now()}
	if err := fn(ctx, tx); err != nil {
		return err
	}
	for _, s := range tx.queued {
		if _, err := sqlTx.ExecContext(ctx, s.query, s.args...); err != nil {
			return fmt.Errorf("%s: %w", s.query, err)
		}
	}
	if err := sqlTx.Commit(); err != nil {
		return err
	}
	for _, fn := range tx.onCommit {
		fn()
	}
	return nil
}

// Tx is a mainstay.Tx. Queued statements run at the commit and no earlier, which is the latest that the contract
// allows. Sent messages are kept.
type Tx struct {
	*sql.Tx
	Sent    []*mainstay.Message
	dialect mainstay.Dialect
	now     time.Time
	queued  []statement

	onCommit []func()
}

type statement struct {
	query string
	args  []any
}

var _ mainstay.Tx = (*Tx)(nil)

// Dialect implements mainstay.Tx.
func (tx *Tx) Dialect() mainstay.Dialect { return tx.dialect }

// Now implements mainstay.Tx.
func (tx *Tx) Now() time.Time { return tx.now }

// Queue implements mainstay.Tx.
func (tx *Tx) Queue(query string, args ...any) { tx.queued = append(tx.queued, statement{query, args}) }

// Send implements mainstay.Tx.
func (tx *Tx) Send(msgs ...*mainstay.Message) { tx.Sent = append(tx.Sent, msgs...) }

// OnCommit implements mainstay.Tx.
func (tx *Tx) OnCommit(fn func()) { tx.onCommit = append(tx.onCommit, fn) }
