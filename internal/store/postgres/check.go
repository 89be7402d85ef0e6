package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/migrations"
	"github.com/mainstay-io/mainstay/outbox"
)

// SchemaError says that the database's schema is not one that this binary can use: it lacks what the binary needs, or
// it has lost what older ones need.
type SchemaError struct {
	// Have is the schema's version, 0 when there is none; Want the one that the binary needs at least.
	Have, Want int64
	// Oldest is the migration that a binary must know to use the schema, and Known the latest that this one knows;
	// both are 0 unless that is the trouble.
	Oldest, Known int64
}

// Newer says that the schema is for newer binaries.
func (e *SchemaError) Newer() bool { return e.Oldest > e.Known }

// Error says what is wrong; what to run depends on how the database was named.
func (e *SchemaError) Error() string {
	switch {
	case e.Newer():
		return fmt.Sprintf("the database's schema was contracted for binaries that know migration %d, newer than the %d that this one knows; run a newer binary",
			e.Oldest, e.Known)
	case e.Have == 0:
		return "the database has no schema yet"
	default:
		return fmt.Sprintf("the database's schema has version %d, this binary needs %d", e.Have, e.Want)
	}
}

// UnsafeError says that the server acknowledges commits which a power cut may take back.
type UnsafeError struct{ Setting string }

// Error names the setting.
func (e *UnsafeError) Error() string {
	return "PostgreSQL runs with " + e.Setting + "=off, so that what was accepted could be lost; turn it on, or allow it by name"
}

func (s *Store) check(ctx context.Context) error {
	if err := s.checkDurability(ctx); err != nil {
		return err
	}
	have, err := s.schemaVersion(ctx)
	if err != nil {
		return err
	}
	if want := migrations.Needed(mainstay.Postgres); have < want {
		return &SchemaError{Have: have, Want: want}
	}
	ob, err := outbox.Open(ctx, s.db, mainstay.Postgres)
	if err != nil {
		return errors.Join(&SchemaError{Want: migrations.Needed(mainstay.Postgres)}, err)
	}
	s.outbox = ob
	var founded int64
	if err := s.db.GetContext(ctx, &founded, originQuery); err != nil {
		return fmt.Errorf("reading when the database was founded: %w", err)
	}
	s.origin = strconv.FormatInt(founded, 36)
	_, err = s.Seam(ctx) // what is remembered from here on is of this era
	return err
}

const durabilityQuery = `/* check.durability */
select current_setting('fsync') as fsync, current_setting('full_page_writes') as pages, current_setting('synchronous_commit') as commit,
       current_database() || '.' || current_schema() as space`

func (s *Store) checkDurability(ctx context.Context) error {
	var row struct{ Fsync, Pages, Commit, Space string }
	if err := s.db.GetContext(ctx, &row, durabilityQuery); err != nil {
		return fmt.Errorf("connecting to the database: %w", err)
	}
	s.lockSpace = row.Space
	s.news.name(row.Space)
	switch {
	case row.Fsync == "off":
		s.unsafe = "fsync"
	case row.Pages == "off":
		s.unsafe = "full_page_writes"
	case row.Commit == "off":
		s.unsafe = "synchronous_commit"
	}
	if s.unsafe != "" && !s.cfg.AllowUnsafe {
		return &UnsafeError{Setting: s.unsafe}
	}
	return nil
}

// Unsafe names the setting that is off, so that a crash may take back what was committed; "" where none is.
func (s *Store) Unsafe() string { return s.unsafe }

const versionQuery = `/* check.version */
select coalesce(max(version_id), 0) from goose_db_version where is_applied`

// schemaVersion is what the migrations have left; 0 when none was ever applied.
func (s *Store) schemaVersion(ctx context.Context) (int64, error) {
	var v int64
	err := s.db.GetContext(ctx, &v, versionQuery)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == codeUndefinedTable {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the schema's version: %w", err)
	}
	return v, nil
}

// known is the latest migration that this binary knows.
func known() int64 { return migrations.Latest(mainstay.Postgres) }

// announce makes a session of the pool for units of work say which migrations its binary knows, by a lock that whoever
// contracts the schema must have, and refuses one for which the schema was contracted meanwhile. So none that is too
// old can be at work after a contraction: it was seen, or it finds out here. A pooler's sessions cannot keep a lock:
// there the name says it, see nameOf.
func announce(pollOnly bool) func(context.Context, *pgx.Conn) error {
	query := `/* check.oldest */ select oldest from compatibility`
	if !pollOnly {
		// Two statements: the second one must see what was committed while the first one waited.
		query = fmt.Sprintf("/* check.announce */ select pg_advisory_lock_shared(program_lock(%d)); %s", known(), query)
	}
	return func(ctx context.Context, conn *pgx.Conn) error {
		err := announceOn(ctx, conn, query)
		if err != nil {
			return errors.Join(err, conn.Close(ctx))
		}
		return nil
	}
}

func announceOn(ctx context.Context, conn *pgx.Conn, query string) error {
	results, err := conn.PgConn().Exec(ctx, query).ReadAll()
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && (pg.Code == codeUndefinedTable || pg.Code == codeUndefinedFunction):
		return nil // the check of the version says it better
	case errors.As(err, &pg) && pg.Code == codeLockNotAvailable:
		return fmt.Errorf("the schema is being contracted for newer binaries than this one, which knows migration %d: %w", known(), err)
	case err != nil:
		return fmt.Errorf("announcing which migrations are known: %w", err)
	}
	oldest, err := strconv.ParseInt(string(results[len(results)-1].Rows[0][0]), 10, 64)
	if err != nil {
		return fmt.Errorf("reading which binaries the schema is for: %w", err)
	}
	if oldest > known() {
		return &SchemaError{Oldest: oldest, Known: known()}
	}
	return nil
}

// nameOf is the sessions' application_name.
func nameOf(cfg Config) string {
	if cfg.PollOnly {
		return fmt.Sprintf("%s program %d", cfg.Name, known())
	}
	return cfg.Name
}
