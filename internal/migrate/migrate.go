// Package migrate brings a database's schema up to what this binary knows. Several processes may do so at once: on
// PostgreSQL an advisory lock lets one of them work while the others wait, and on SQLite the caller holds the
// directory's lock. Only the command-line tool imports it; the other processes compare versions (see the stores).
//
// On PostgreSQL programs go on while the schema changes: Up expands and fills, and what would break older programs is
// left to Contract, which refuses while one of them is connected.
package migrate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/pressly/goose/v3"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/migrations"
)

// Numbers of lanes by default.
const (
	DefaultLanes       = 16 // of a database of its own
	DefaultServerLanes = 4  // of `mainstay serve`
)

// Defaults of a Runner.
const (
	DefaultWait  = 2 * time.Minute
	DefaultChunk = 1000
)

// Status is one migration: when it was applied, zero when it was not.
type Status struct {
	migrations.Migration
	AppliedAt time.Time
	// Filled is how many rows a backfill has filled that is not done yet.
	Filled int64
}

// Runner changes the schema of a database. Zero values stand for the defaults.
type Runner struct {
	DB      *sql.DB
	Dialect mainstay.Dialect
	// Wait bounds how long other sessions of PostgreSQL are waited for at a time, see WaitError.
	Wait time.Duration
	// Chunk is how many rows a backfill looks at in a transaction.
	Chunk int
	// Say is told of progress, a line at a time, by one goroutine at a time.
	Say func(line string)

	folder fs.FS // of migrations, in place of the program's own
}

func (r Runner) withDefaults() Runner {
	if r.Wait == 0 {
		r.Wait = DefaultWait
	}
	if r.Chunk == 0 {
		r.Chunk = DefaultChunk
	}
	if r.Say == nil {
		r.Say = func(string) {}
	}
	return r
}

// Up is Runner.Up with the defaults.
func Up(ctx context.Context, db *sql.DB, dialect mainstay.Dialect, lanes int) ([]Status, error) {
	return Runner{DB: db, Dialect: dialect}.Up(ctx, lanes)
}

// Up expands and fills what is missing, each file in a transaction of its own but for backfills and concurrent
// indexes, and founds a new database with this many lanes; of one that exists already, the lanes stay as they are. It
// leaves contractions out, but for a database that nobody can have used yet and for SQLite, which has one process; what
// comes after them is applied before them, so that no program waits for the end of those of before. It answers with what it has applied, which is nothing when all was there, or when a newer program has made
// a schema that this one may use too. A *NewerError says that it may not, and a *WaitError that others stood in the
// way. It may be repeated after any failure.
func (r Runner) Up(ctx context.Context, lanes int) ([]Status, error) {
	r = r.withDefaults()
	p, newer, err := r.provider(ctx)
	if err != nil || newer {
		return nil, err
	}
	used, err := r.founded(ctx, p)
	if err != nil {
		return nil, err
	}
	pending, err := r.pending(ctx, p)
	if err != nil {
		return nil, err
	}
	if used && r.Dialect == mainstay.Postgres {
		pending = slices.DeleteFunc(pending, isContraction)
	}
	applied, err := r.apply(ctx, p, pending)
	if err != nil {
		return nil, fmt.Errorf("migrating up: %w", err)
	}
	if err := found(ctx, r.DB, r.Dialect, lanes); err != nil {
		return nil, fmt.Errorf("founding the database: %w", err)
	}
	return applied, nil
}

func isContraction(s Status) bool { return s.Kind == migrations.Contract }

// Down undoes everything, with all data: it is for tests of the migrations.
func Down(ctx context.Context, db *sql.DB, dialect mainstay.Dialect) error {
	p, _, err := Runner{DB: db, Dialect: dialect}.provider(ctx)
	if err != nil {
		return err
	}
	if _, err := p.DownTo(ctx, 0); err != nil {
		return fmt.Errorf("migrating down: %w", err)
	}
	return nil
}

// List answers with every migration that this binary knows, in order; a *NewerError says that there are others which
// it cannot do with.
func List(ctx context.Context, db *sql.DB, dialect mainstay.Dialect) ([]Status, error) {
	r := Runner{DB: db, Dialect: dialect}
	p, _, err := r.provider(ctx)
	if err != nil {
		return nil, err
	}
	return r.list(ctx, p)
}

// provider reads the migrations, and whether the schema is newer than they are.
func (r Runner) provider(ctx context.Context) (p *goose.Provider, newer bool, err error) {
	p, err = r.open()
	if err != nil {
		return nil, false, err
	}
	have, err := p.GetDBVersion(ctx)
	if err != nil {
		return nil, false, fmt.Errorf("reading the version of the schema: %w", err)
	}
	all, err := migrations.Read(r.files())
	if err != nil {
		return nil, false, err
	}
	latest := all[len(all)-1].Version
	if have <= latest {
		return p, false, nil
	}
	if r.Dialect == mainstay.Postgres {
		if oldest, err := oldestProgram(ctx, r.DB); err != nil || oldest <= latest {
			return p, true, err
		}
	}
	return nil, true, &NewerError{Have: have, Want: latest}
}

// open makes a provider without process-wide state: neither registered Go migrations nor a global dialect.
func (r Runner) open(opts ...goose.ProviderOption) (*goose.Provider, error) {
	name := goose.DialectSQLite3
	if r.Dialect == mainstay.Postgres {
		name = goose.DialectPostgres
	}
	opts = append(opts, goose.WithDisableGlobalRegistry(true))
	p, err := goose.NewProvider(name, r.DB, r.files(), opts...)
	if err != nil {
		return nil, fmt.Errorf("reading the migrations: %w", err)
	}
	return p, nil
}

// files are the program's own migrations, unless others were given.
func (r Runner) files() fs.FS {
	if r.folder != nil {
		return r.folder
	}
	return migrations.FS(r.Dialect)
}

// list joins what is known of migrations with what was done.
func (r Runner) list(ctx context.Context, p *goose.Provider) ([]Status, error) {
	all, err := p.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the state of migrations: %w", err)
	}
	filled := map[int64]int64{}
	if r.Dialect == mainstay.Postgres {
		if filled, err = backfilled(ctx, r.DB); err != nil {
			return nil, err
		}
	}
	statuses := make([]Status, 0, len(all))
	known, err := migrations.Read(r.files())
	if err != nil {
		return nil, err
	}
	for i, m := range known {
		s := Status{Migration: m, Filled: filled[m.Version]}
		if all[i].State == goose.StateApplied {
			s.AppliedAt = all[i].AppliedAt
		}
		statuses = append(statuses, s)
	}
	return statuses, nil
}

// pending lists what was not applied.
func (r Runner) pending(ctx context.Context, p *goose.Provider) ([]Status, error) {
	all, err := r.list(ctx, p)
	return slices.DeleteFunc(all, func(s Status) bool { return !s.AppliedAt.IsZero() }), err
}

// apply applies migrations one by one, and answers with those that were not applied by somebody else meanwhile.
func (r Runner) apply(ctx context.Context, p *goose.Provider, pending []Status) ([]Status, error) {
	var mine []int64
	for _, m := range pending {
		results, err := r.step(ctx, p, m)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Name, err)
		}
		for _, done := range results {
			mine = append(mine, done.Source.Version)
		}
	}
	all, err := r.list(ctx, p)
	return slices.DeleteFunc(all, func(s Status) bool { return !slices.Contains(mine, s.Version) }), err
}

// step applies one migration, and no later one, whatever others do meanwhile.
func (r Runner) step(ctx context.Context, p *goose.Provider, m Status) ([]*goose.MigrationResult, error) {
	if r.Dialect == mainstay.Postgres {
		return r.stepPostgres(ctx, m.Migration)
	}
	return p.UpTo(ctx, m.Version)
}

const (
	foundedQuery  = `/* migrate.founded */ select exists (select 1 from meta)`
	foundPostgres = `/* migrate.found */ select found_database($1)`
	foundSQLite   = `/* migrate.found */ insert into meta (one, lanes, identity, created_at)
values (1, $1, $2, cast(unixepoch('subsec') * 1000000 as integer)) on conflict do nothing`
)

// founded says that programs may have used the database.
func (r Runner) founded(ctx context.Context, p *goose.Provider) (yes bool, err error) {
	have, err := p.GetDBVersion(ctx)
	if err == nil && have > 0 {
		err = r.DB.QueryRowContext(ctx, foundedQuery).Scan(&yes)
	}
	if err != nil {
		return false, fmt.Errorf("reading what the database is: %w", err)
	}
	return yes, nil
}

const lanesQuery = `/* migrate.lanes */ select lanes from meta`

// Lanes is the number with which the database was founded.
func Lanes(ctx context.Context, db *sql.DB) (lanes int, err error) {
	if err := db.QueryRowContext(ctx, lanesQuery).Scan(&lanes); err != nil {
		return 0, fmt.Errorf("reading the number of lanes: %w", err)
	}
	return lanes, nil
}

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
