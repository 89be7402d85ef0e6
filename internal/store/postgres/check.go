package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mainstay-io/mainstay"
	"github.com/mainstay-io/mainstay/migrations"
	"github.com/mainstay-io/mainstay/outbox"
)

// SchemaError says that the database's schema is not the one that this binary needs.
type SchemaError struct {
	// Have is the schema's version, 0 when there is none; Want the binary's.
	Have, Want int64
}

// Error says what is wrong, and what to run.
func (e *SchemaError) Error() string {
	const up = "; run: mainstay migrate up --database URL"
	switch {
	case e.Have == 0:
		return "the database has no schema yet" + up
	case e.Have <= e.Want:
		return fmt.Sprintf("the database's schema has version %d, this binary needs %d", e.Have, e.Want) + up
	default:
		return fmt.Sprintf("the database's schema has version %d, newer than the %d that this binary knows; run a newer binary",
			e.Have, e.Want)
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
	if want := migrations.Latest(mainstay.Postgres); have != want {
		return &SchemaError{Have: have, Want: want}
	}
	ob, err := outbox.Open(ctx, s.db, mainstay.Postgres)
	if err != nil {
		return errors.Join(&SchemaError{Want: migrations.Latest(mainstay.Postgres)}, err)
	}
	s.outbox = ob
	var founded int64
	if err := s.db.GetContext(ctx, &founded, originQuery); err != nil {
		return fmt.Errorf("reading when the database was founded: %w", err)
	}
	s.origin = strconv.FormatInt(founded, 36)
	return nil
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
	case s.cfg.AllowUnsafe:
		return nil
	case row.Fsync == "off":
		return &UnsafeError{Setting: "fsync"}
	case row.Pages == "off":
		return &UnsafeError{Setting: "full_page_writes"}
	case row.Commit == "off":
		return &UnsafeError{Setting: "synchronous_commit"}
	default:
		return nil
	}
}

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
