// Package migrate brings a database's schema up to what this binary knows. Several processes may do so at once: on
// PostgreSQL an advisory lock lets one of them work while the others wait, and on SQLite the caller holds the
// directory's lock. Only the command-line tool imports it; the other processes compare versions (see the stores).
package migrate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/migrations"
)

// Numbers of lanes by default.
const (
	DefaultLanes       = 16 // of a database of its own
	DefaultServerLanes = 4  // of `mainstay serve`
)

// lockID is the advisory lock under which PostgreSQL's schema is changed: "mainstay" as bytes.
const lockID int64 = 0x6d61696e73746179

// lockPatience is how many seconds to wait for another process that migrates.
const lockPatience = 300

// Status is one migration: when it was applied, zero when it was not.
type Status struct {
	Version   int64
	Name      string
	AppliedAt time.Time
}

// Up applies what is missing, each file in a transaction of its own, and founds a new database with this many lanes;
// of one that exists already, the lanes stay as they are. It answers with what it has applied, which is nothing when
// all was there, or with a *NewerError, and nothing was changed. It may be repeated after any failure.
func Up(ctx context.Context, db *sql.DB, dialect mainstay.Dialect, lanes int) ([]Status, error) {
	p, err := provider(db, dialect)
	if err != nil {
		return nil, err
	}
	if err := refuseNewer(ctx, p, dialect); err != nil {
		return nil, err
	}
	results, err := p.Up(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrating up: %w", err)
	}
	if err := found(ctx, db, dialect, lanes); err != nil {
		return nil, fmt.Errorf("founding the database: %w", err)
	}
	all, err := list(ctx, p)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(s Status) bool {
		return !slices.ContainsFunc(results, func(r *goose.MigrationResult) bool { return r.Source.Version == s.Version })
	}), nil
}

// Down undoes everything, with all data: it is for tests of the migrations.
func Down(ctx context.Context, db *sql.DB, dialect mainstay.Dialect) error {
	p, err := provider(db, dialect)
	if err != nil {
		return err
	}
	if _, err := p.DownTo(ctx, 0); err != nil {
		return fmt.Errorf("migrating down: %w", err)
	}
	return nil
}

// List answers with every migration that this binary knows, in order; a *NewerError says that there are others.
func List(ctx context.Context, db *sql.DB, dialect mainstay.Dialect) ([]Status, error) {
	p, err := provider(db, dialect)
	if err != nil {
		return nil, err
	}
	if err := refuseNewer(ctx, p, dialect); err != nil {
		return nil, err
	}
	return list(ctx, p)
}

// NewerError says that the schema was made by a newer binary: nobody knows here what it means.
type NewerError struct{ Have, Want int64 }

// Error names both versions.
func (e *NewerError) Error() string {
	return fmt.Sprintf("the schema has version %d, newer than the %d that this program knows", e.Have, e.Want)
}

func refuseNewer(ctx context.Context, p *goose.Provider, dialect mainstay.Dialect) error {
	have, err := p.GetDBVersion(ctx)
	if err != nil {
		return fmt.Errorf("reading the version of the schema: %w", err)
	}
	if want := migrations.Latest(dialect); have > want {
		return &NewerError{Have: have, Want: want}
	}
	return nil
}

func list(ctx context.Context, p *goose.Provider) ([]Status, error) {
	all, err := p.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the state of migrations: %w", err)
	}
	statuses := make([]Status, 0, len(all))
	for _, s := range all {
		statuses = append(statuses, Status{Version: s.Source.Version, Name: s.Source.Path, AppliedAt: s.AppliedAt})
	}
	return statuses, nil
}

// provider has no process-wide state: neither registered Go migrations nor a global dialect.
func provider(db *sql.DB, dialect mainstay.Dialect) (*goose.Provider, error) {
	opts := []goose.ProviderOption{goose.WithDisableGlobalRegistry(true)}
	name := goose.DialectSQLite3
	if dialect == mainstay.Postgres {
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(lockID), lock.WithLockTimeout(1, lockPatience))
		if err != nil {
			return nil, fmt.Errorf("preparing the migration lock: %w", err)
		}
		name, opts = goose.DialectPostgres, append(opts, goose.WithSessionLocker(locker))
	}
	p, err := goose.NewProvider(name, db, migrations.FS(dialect), opts...)
	if err != nil {
		return nil, fmt.Errorf("reading the migrations: %w", err)
	}
	return p, nil
}

const (
	foundPostgres = `/* migrate.found */ select found_database($1)`
	foundSQLite   = `/* migrate.found */ insert into meta (one, lanes, identity, created_at)
values (1, $1, $2, cast(unixepoch('subsec') * 1000000 as integer)) on conflict do nothing`
)

// found writes the row that says what the database is, once.
func found(ctx context.Context, db *sql.DB, dialect mainstay.Dialect, lanes int) error {
	if dialect == mainstay.Postgres {
		_, err := db.ExecContext(ctx, foundPostgres, lanes)
		return err
	}
	id, err := uuid.NewRandom()
	if err != nil {
		return errors.Join(errors.New("making an identity"), err)
	}
	_, err = db.ExecContext(ctx, foundSQLite, lanes, id.String())
	return err
}
